//go:build unix

package variants

import "syscall"

// The signals that the programs are documented to restart on.
const (
	restartService = syscall.SIGHUP
	restartNginx   = syscall.SIGHUP
	restartHAProxy = syscall.SIGUSR2
)

func alive(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
