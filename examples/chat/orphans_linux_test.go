package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// reap waits for the end of a generation that another one has started, and wants it to be a good one. wait4(2) has no
// limit of its own, so that it is asked again and again.
func reap(t *testing.T, pid int) {
	t.Helper()
	var status syscall.WaitStatus
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		found, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
		require.NoError(t, err)
		if found == pid {
			require.Zero(t, status, "process %d", pid)
			return
		}
		require.False(t, time.Now().After(limit), "process %d does not end", pid)
	}
}
