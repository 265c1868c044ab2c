package mitosis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

var (
	_ net.Listener = (*Listener)(nil)
	_ syscall.Conn = (*Listener)(nil)
	_ socket       = (*Listener)(nil)
)

// streamListener is what *net.TCPListener and *net.UnixListener have in common.
type streamListener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// Listener is a listening socket that the registry keeps. It is what
// [Registry.Listen] returns. All methods may be called concurrently.
type Listener struct {
	*registration
	inner streamListener
	gate  *gate

	mu        sync.Mutex
	forwarded []*forwardedConn        // by older generations, for Accept
	parked    map[*forwardedConn]bool // those on which nothing has come yet
	arrival   sync.Cond               // of a forwarded connection, or the end
	drained   bool                    // the socket is closed, Accept goes on
	accepts   chan struct{}           // gets one when Accept returns
}

// newListener wraps inner. Its gate is shut until the registry opens it.
func newListener(r *registration, inner streamListener) *Listener {
	if unix, ok := inner.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // the registry knows who owns the path
	}
	l := &Listener{registration: r, inner: inner, gate: newGate(inner.SetDeadline), accepts: make(chan struct{}, 1)}
	l.arrival.L = &l.mu
	return l
}

// Accept waits for the next connection. Before [Registry.Ready] has returned it
// waits, in every generation, and during a cut it waits until the outcome is
// known. When the next generation has taken over it returns an error that matches
// both net.ErrClosed and ErrSuperseded; after Close, one that matches
// net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	c, unread, _, err := l.AcceptForwarded()
	if err == nil && len(unread) > 0 {
		return &lateConn{Conn: c, unread: unread}, nil
	}
	return c, err
}

// Close closes the listener and takes its name out of the registry. The port is
// free at once, and the path of a Unix socket is unlinked, unless another
// generation has inherited the socket: then only this process's part of it ends.
// What is in the queue of a socket that nobody else has is reset by the system;
// see Drain.
func (l *Listener) Close() error {
	err := l.registry.close(l, func() error {
		l.end(net.ErrClosed)
		if l.isDrained() {
			return nil
		}
		return l.inner.Close()
	})
	l.dropForwarded()
	if err != nil {
		return l.operror("close", err)
	}
	return nil
}

// end turns away everybody who is in Accept, for good.
func (l *Listener) end(err error) {
	l.gate.end(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrival.Broadcast()
}

// Addr returns the address that the socket is bound to, with the port that the
// system chose if ":0" was asked for.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Name returns the name in the registry.
func (l *Listener) Name() string { return l.name }

// SetDeadline bounds Accept, as (*net.TCPListener).SetDeadline does. Where Accept
// waits for Ready or for the end of a cut, the deadline counts from then on.
func (l *Listener) SetDeadline(t time.Time) error { return l.gate.setUserDeadline(t) }

// SyscallConn gives access to the socket, for its options. It does not change the
// blocking mode, as File of the net package's listeners does.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.inner.SyscallConn() }

func (l *Listener) operror(op string, err error) error {
	if _, ok := err.(*net.OpError); ok {
		return err
	}
	return &net.OpError{Op: op, Net: l.Addr().Network(), Addr: l.Addr(), Err: err}
}

func (l *Listener) describe() wire.Socket {
	return wire.Socket{Name: l.name, Type: typeListener, Network: l.network, Address: l.address, Path: l.path, Opened: l.opened}
}

func (l *Listener) duplicate() (int, error) {
	if l.isDrained() {
		return -1, net.ErrClosed
	}
	return sys.Duplicate(l.inner)
}

func (l *Listener) freeze()                               { l.gate.close() }
func (l *Listener) awaitFrozen(ctx context.Context) error { return l.gate.drained(ctx) }
func (l *Listener) open()                                 { l.gate.open() }

func (l *Listener) supersede() {
	l.end(handedOver)
	l.inner.Close()
	l.forwardRest()
}

func (l *Listener) discard() error {
	l.end(net.ErrClosed)
	l.dropForwarded()
	if l.isDrained() {
		return nil
	}
	return l.inner.Close()
}

// openListener opens a new listening socket.
func openListener(config *net.ListenConfig, network, address string) (streamListener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix", "unixpacket":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	ln, err := config.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return ln.(streamListener), nil
}

// rebuildListener makes a listener of an inherited descriptor, which it takes.
func rebuildListener(fd int) (streamListener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() // net.FileListener works on a duplicate
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	stream, ok := ln.(streamListener)
	if !ok {
		ln.Close()
		return nil, fmt.Errorf("%T is not a stream listener", ln)
	}
	return stream, nil
}

// transferableListener returns the listener with a descriptor that ln is.
func transferableListener(ln net.Listener) (streamListener, error) {
	switch ln := ln.(type) {
	case *net.TCPListener:
		if ln != nil {
			return ln, nil
		}
	case *net.UnixListener:
		if ln != nil {
			return ln, nil
		}
	case *Listener:
		return nil, fmt.Errorf("%w: it is socket %q of a registry already", ErrNameTaken, ln.name)
	}
	return nil, fmt.Errorf("%T %w; if it wraps another listener (TLS does), add that one and wrap what AddListener returns", ln, ErrNotTransferable)
}

// configureAccepted gives a connection of a rebuilt listener the keep-alive
// settings of Options.ListenConfig, which net.FileListener knows nothing of.
func (m *Registry) configureAccepted(c *net.TCPConn) {
	lc := &m.options.ListenConfig
	switch {
	case lc.KeepAliveConfig.Enable:
		c.SetKeepAliveConfig(lc.KeepAliveConfig)
	case lc.KeepAlive < 0:
		c.SetKeepAlive(false)
	case lc.KeepAlive > 0:
		c.SetKeepAlivePeriod(lc.KeepAlive)
	}
}

// sameAddress says whether a request for an address is met by an inherited socket
// that was asked for as recorded and is bound to bound.
func sameAddress(network, address string, recorded wire.Socket, bound net.Addr) bool {
	if network == recorded.Network && address == recorded.Address {
		return true
	}
	if recorded.Network == "" {
		return true // the old process died before it could say what it was asked for
	}
	var ip net.IP
	var port int
	switch bound := bound.(type) {
	case *net.TCPAddr:
		wanted, err := net.ResolveTCPAddr(network, address)
		if err != nil || wanted.Port != bound.Port {
			return false
		}
		ip, port = bound.IP, bound.Port
		return port != 0 && sameFamily(network, recorded.Network) && sameIP(wanted.IP, ip)
	case *net.UDPAddr:
		wanted, err := net.ResolveUDPAddr(network, address)
		if err != nil || wanted.Port != bound.Port {
			return false
		}
		ip, port = bound.IP, bound.Port
		return port != 0 && sameFamily(network, recorded.Network) && sameIP(wanted.IP, ip)
	}
	return false
}

// sameFamily refuses "tcp4" where "tcp" was: the one is a narrower promise.
func sameFamily(a, b string) bool { return a == b }

func sameIP(a, b net.IP) bool {
	return a.Equal(b) || (len(a) == 0 || a.IsUnspecified()) && (len(b) == 0 || b.IsUnspecified())
}

// pathIdentity returns the identity of the socket file that addr names, or nil if
// it names none: an abstract or unnamed socket, or one that is not Unix.
func pathIdentity(addr net.Addr) *wire.PathIdentity {
	unix, ok := addr.(*net.UnixAddr)
	if !ok || unix == nil || unix.Name == "" || unix.Name[0] == '@' || unix.Name[0] == 0 {
		return nil
	}
	path, err := absolutePath(unix.Name)
	if err != nil {
		return nil
	}
	device, inode, modified, err := sys.FileIdentity(path)
	if err != nil {
		return nil
	}
	return &wire.PathIdentity{Path: path, Device: device, Inode: inode, Modified: modified}
}

// unlink removes the socket file, if it is still the one it was.
func unlink(p *wire.PathIdentity) error {
	device, inode, modified, err := sys.FileIdentity(p.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if device != p.Device || inode != p.Inode || modified != p.Modified {
		return nil
	}
	return os.Remove(p.Path)
}
