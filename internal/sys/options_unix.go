//go:build unix

package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// option is one integer option of a socket.
type option struct{ level, name int }

// tcpOptions are those that net.FileConn sets on a TCP socket.
var tcpOptions = append([]option{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
}, keepAliveOptions...)

// Options are the values of options of a socket, as they were.
type Options []int

// TCPOptions reads what net.FileConn is going to change. An option that the socket
// does not have is left out when they are set again.
func TCPOptions(fd int) Options {
	values := make(Options, len(tcpOptions))
	for i, o := range tcpOptions {
		value, err := unix.GetsockoptInt(fd, o.level, o.name)
		if err != nil {
			value = -1
		}
		values[i] = value
	}
	return values
}

// Restore sets the options again.
func (values Options) Restore(raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		for i, o := range tcpOptions {
			if values[i] >= 0 {
				unix.SetsockoptInt(int(fd), o.level, o.name, values[i])
			}
		}
	})
}

// ShutdownUnlessReset sends the end of the stream, whoever else has the socket
// open, unless it is set to be reset when it is closed (SO_LINGER of zero).
func ShutdownUnlessReset(raw syscall.RawConn) {
	raw.Control(func(fd uintptr) {
		if linger, err := unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER); err == nil && linger.Onoff != 0 && linger.Linger == 0 {
			return
		}
		unix.Shutdown(int(fd), unix.SHUT_WR)
	})
}
