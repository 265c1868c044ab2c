//go:build unix

package sys

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// CloseEmpty closes a listening socket in the moment in which its queue is empty,
// and returns the connections that were in it. If empty is false more of them are
// left, and it is still open. The descriptor stays in use, for a socket that does
// nothing, until l is closed.
func CloseEmpty(l syscall.Conn) (accepted []net.Conn, empty bool, err error) {
	nothing, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(nothing)
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, false, err
	}
	var fds []int
	syscall.ForkLock.RLock() // descriptors are without close-on-exec for a moment
	controlErr := raw.Control(func(fd uintptr) {
		for {
			accepted, _, acceptErr := unix.Accept(int(fd))
			switch {
			case acceptErr == nil:
				fds = append(fds, accepted)
				continue
			case errors.Is(acceptErr, unix.EINTR), errors.Is(acceptErr, unix.ECONNABORTED):
				continue
			case errors.Is(acceptErr, unix.EAGAIN), errors.Is(acceptErr, unix.EINVAL): // it refuses
				// The old socket ends right here. Unless it refuses, somebody may just
				// have come.
				err = os.NewSyscallError("dup2", unix.Dup2(nothing, int(fd)))
				empty = err == nil
			default:
				err = os.NewSyscallError("accept", acceptErr)
			}
			unix.CloseOnExec(int(fd))
			return
		}
	})
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "accepted")
		c, connErr := net.FileConn(f)
		f.Close()
		if connErr != nil {
			err = errors.Join(err, connErr)
			continue
		}
		accepted = append(accepted, c)
	}
	return accepted, empty, errors.Join(err, controlErr)
}
