//go:build unix

package mitosis

import (
	"os"
	"syscall"
)

var (
	defaultSplitSignals = []os.Signal{syscall.SIGHUP, syscall.SIGUSR2}
	defaultStopSignals  = []os.Signal{syscall.SIGTERM, syscall.SIGINT}
)
