package variants

import (
	"os"
	"syscall"
)

// There are no such signals here: sending one is an error, which says so.
const (
	restartService = syscall.SIGHUP
	restartNginx   = syscall.SIGHUP
	restartHAProxy = syscall.SIGHUP
)

func alive(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	return process.Release() == nil
}
