//go:build unix

package orphans

import (
	"time"

	"golang.org/x/sys/unix"
)

// Remain reaps the children of this process, and says whether some have not ended
// within the limit.
func Remain(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case err == unix.ECHILD:
			return false
		case pid == 0:
			time.Sleep(time.Millisecond) // wait4(2) has no limit of its own
		}
	}
	return true
}
