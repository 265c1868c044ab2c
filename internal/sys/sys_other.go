//go:build !unix

package sys

import (
	"errors"
	"net"
	"syscall"
)

// Supported says whether a process can hand descriptors to another here.
const Supported = false

// Pair is not supported here.
func Pair() (*net.UnixConn, int, error) { return nil, -1, errors.ErrUnsupported }

// UnixConn is not supported here.
func UnixConn(int) (*net.UnixConn, error) { return nil, errors.ErrUnsupported }

// Duplicate is not supported here.
func Duplicate(syscall.Conn) (int, error) { return -1, errors.ErrUnsupported }

// DuplicateDescriptor is not supported here.
func DuplicateDescriptor(int) (int, error) { return -1, errors.ErrUnsupported }

// CloseDescriptor is not supported here.
func CloseDescriptor(int) error { return errors.ErrUnsupported }

// SetCloseOnExec is not supported here.
func SetCloseOnExec(int) error { return errors.ErrUnsupported }

// PeekLink is not supported here.
func PeekLink(int, []byte) (int, error) { return 0, errors.ErrUnsupported }

// DescriptorType is not supported here.
func DescriptorType(int) (SocketType, error) { return NotASocket, errors.ErrUnsupported }

// FileIdentity is not supported here.
func FileIdentity(string) (device, inode uint64, modified int64, err error) {
	return 0, 0, 0, errors.ErrUnsupported
}

// Start is not supported here.
func Start(string, []string, string, []string, []int) (*Process, error) {
	return nil, errors.ErrUnsupported
}

// Options are the values of options of a socket.
type Options []int

// TCPOptions is not supported here.
func TCPOptions(int) Options { return nil }

// Restore does nothing here.
func (Options) Restore(syscall.RawConn) error { return nil }

// ShutdownUnlessReset does nothing here: there is never another process.
func ShutdownUnlessReset(syscall.RawConn) {}

// AwaitReadable is not supported here.
func AwaitReadable(syscall.Conn) error { return errors.ErrUnsupported }

// Readable says no: nobody can tell here.
func Readable(syscall.Conn) bool { return false }

// CloseEmpty is not supported here.
func CloseEmpty(syscall.Conn) ([]net.Conn, bool, error) { return nil, false, errors.ErrUnsupported }
