//go:build unix

package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supported says whether a process can hand descriptors to another here.
const Supported = true

// Pair returns the two ends of a new control link: ours ready for use, the other
// as a plain descriptor. Both are close-on-exec.
func Pair() (ours *net.UnixConn, theirs int, err error) {
	fds, err := socketPair()
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	ours, err = UnixConn(fds[0])
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, err
	}
	return ours, fds[1], nil
}

// UnixConn returns a connection over the descriptor, which it takes.
func UnixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "control link")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor %d is a %s socket, not a Unix one", fd, c.LocalAddr().Network())
	}
	return conn, nil
}

// Duplicate returns a new close-on-exec descriptor for what c refers to.
func Duplicate(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup := -1
	var dupErr error
	if err := raw.Control(func(fd uintptr) { dup, dupErr = DuplicateDescriptor(int(fd)) }); err != nil {
		return -1, err
	}
	return dup, dupErr
}

// DuplicateDescriptor returns a new close-on-exec descriptor for what fd refers to.
func DuplicateDescriptor(fd int) (int, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return dup, nil
}

// CloseDescriptor closes fd.
func CloseDescriptor(fd int) error { return unix.Close(fd) }

// SetCloseOnExec marks fd, and fails if there is no such descriptor.
func SetCloseOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return os.NewSyscallError("fcntl", err)
}

// PeekLink looks at the first bytes that wait on fd, without taking them, waiting
// for them, or touching a descriptor that is no Unix stream socket.
func PeekLink(fd int, b []byte) (int, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	if _, ok := address.(*unix.SockaddrUnix); !ok || kind != unix.SOCK_STREAM {
		return 0, errors.New("not a Unix stream socket")
	}
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n, os.NewSyscallError("recvfrom", err)
}

// DescriptorType says what fd is, and fails if there is no such descriptor.
func DescriptorType(fd int) (SocketType, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return NotASocket, nil
	case err != nil:
		return NotASocket, os.NewSyscallError("getsockopt", err)
	case kind == unix.SOCK_DGRAM || kind == unix.SOCK_RAW:
		return Packet, nil
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err == nil && listening == 0 {
		return Stream, nil
	}
	return StreamListener, nil
}

// FileIdentity tells a file from another that has taken its path.
func FileIdentity(path string) (device, inode uint64, modified int64, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, 0, 0, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return uint64(stat.Dev), uint64(stat.Ino), info.ModTime().UnixNano(), nil
}

// Start starts a program whose descriptors are files, numbered from 0.
func Start(path string, argv []string, dir string, env []string, files []int) (*Process, error) {
	attr := &syscall.ProcAttr{Dir: dir, Env: env}
	for _, fd := range files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	pid, _, err := syscall.StartProcess(path, argv, attr)
	if err != nil {
		return nil, &os.PathError{Op: "start", Path: path, Err: err}
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return &Process{pid: pid, proc: proc}, nil
}

// AwaitReadable waits until something can be read from c, its end included, and
// takes nothing.
func AwaitReadable(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var b [1]byte
	return raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
}

// Readable says whether a read from c, or an accept, would find something now.
func Readable(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	readable := false
	raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, 0)
			if !errors.Is(err, unix.EINTR) {
				readable = err == nil && n > 0
				return
			}
		}
	})
	return readable
}
