//go:build !unix

package mitosis

import "os"

var (
	defaultSplitSignals = []os.Signal{}
	defaultStopSignals  = []os.Signal{os.Interrupt}
)
