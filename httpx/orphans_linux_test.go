package httpx_test

import (
	"time"

	"golang.org/x/sys/unix"
)

// becomeSubreaper makes the tests the parent of generations whose own parent has
// ended, so that they can be reaped here.
func becomeSubreaper() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
}

// childrenRemain reaps orphans, and says whether some do not end.
func childrenRemain() bool {
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case err == unix.ECHILD:
			return false
		case pid == 0:
			time.Sleep(time.Millisecond)
		}
	}
	return true
}
