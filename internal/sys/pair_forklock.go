//go:build unix && !(dragonfly || freebsd || linux || netbsd || openbsd)

package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Here socketpair(2) cannot set close-on-exec, so no fork may come in between.
func socketPair() ([2]int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fds, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fds[0])
			unix.Close(fds[1])
			return fds, err
		}
	}
	return fds, nil
}
