//go:build !unix

package orphans

import "time"

// Remain says no: there are no generations here.
func Remain(time.Duration) bool { return false }
