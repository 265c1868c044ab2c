//go:build !linux

package sys

import (
	"errors"
	"net"
	"syscall"
)

// RefuseConnections is not supported here: a listening socket refuses new
// connections when it is closed, and not before.
func RefuseConnections(syscall.Conn) error { return errors.ErrUnsupported }

// HandshakesUnderWay says no: the system does not tell.
func HandshakesUnderWay(net.Addr) bool { return false }
