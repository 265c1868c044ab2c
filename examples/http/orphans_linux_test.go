package main

import (
	"syscall"
	"testing"
	"time"
)

// orphanStatuses is how adopted processes have ended, by pid.
var orphanStatuses = map[int]syscall.WaitStatus{}

// reapOrphans waits until no child of this process is left. Children that os/exec waits for have to be gone already.
func reapOrphans(t *testing.T) {
	t.Helper()
	for limit := time.Now().Add(patience); ; {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.ECHILD:
			return
		case pid > 0:
			orphanStatuses[pid] = status
		case time.Now().After(limit):
			t.Errorf("a process does not end")
			return
		default:
			time.Sleep(time.Millisecond) // wait4(2) has no limit of its own
		}
	}
}

// orphanExit returns the exit status of a generation that this process did not start itself. It is not known of one
// that its parent has survived.
func orphanExit(t *testing.T, pid int) (status int, known bool) {
	t.Helper()
	reapOrphans(t)
	s, ok := orphanStatuses[pid]
	return s.ExitStatus(), ok
}
