package sys

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// RefuseConnections makes the system refuse every new connection to a listening
// socket, as if it were closed, while those in its queue can be accepted and
// handshakes that are under way go on. There is no way back, and it concerns all
// who have the socket.
//
// A Unix socket is shut down for reading. TCP knows nothing like it, but a socket
// that is bound to a network interface is found by what arrives there only
// (socket(7)); this one is bound to an interface that does not exist.
func RefuseConnections(l syscall.Conn) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var refuseErr error
	err = raw.Control(func(fd uintptr) {
		domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		switch {
		case err != nil:
			refuseErr = os.NewSyscallError("getsockopt", err)
		case domain == unix.AF_UNIX:
			refuseErr = os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_RD))
		default:
			refuseErr = os.NewSyscallError("setsockopt",
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, math.MaxInt32))
		}
	})
	if err != nil {
		return err
	}
	return refuseErr
}

// HandshakesUnderWay says whether the system has answered somebody who wants to
// connect to a TCP port of ours, and waits for the end of the handshake. If the
// system does not tell, it says no.
func HandshakesUnderWay(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return false
	}
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.Open(path)
		if err != nil {
			continue
		}
		found := hasHandshake(table, tcp.Port)
		table.Close()
		if found {
			return true
		}
	}
	return false
}

// hasHandshake looks for a connection to a local port in state SYN_RECV in a table
// as proc_net_tcp.rst of the kernel's documentation describes it.
func hasHandshake(table io.Reader, port int) bool {
	const synReceived = "03"
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // number, local, remote, state
		if len(fields) > 3 && fields[3] == synReceived && strings.HasSuffix(fields[1], suffix) {
			return true
		}
	}
	return false
}
