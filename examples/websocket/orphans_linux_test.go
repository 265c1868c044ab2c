package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// adoptOrphans makes generations whose parent has ended children of this process.
func adoptOrphans() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
}

// reap waits for the end of a generation that another one has started, and wants it to be a good one.
func reap(t *testing.T, pid int) {
	t.Helper()
	var status syscall.WaitStatus
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		found, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
		if err == syscall.ECHILD {
			return // its parent has lived longer
		}
		require.NoError(t, err)
		if found == pid {
			require.Zero(t, status, "process %d", pid)
			return
		}
		require.False(t, time.Now().After(limit), "process %d does not end", pid)
	}
}
