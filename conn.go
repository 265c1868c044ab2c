package mitosis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	_ net.Conn      = (*Conn)(nil)
	_ syscall.Conn  = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)

// streamConn is what *net.TCPConn and *net.UnixConn have in common.
type streamConn interface {
	net.Conn
	syscall.Conn
	CloseRead() error
	CloseWrite() error
}

// Conn is a live connection that goes from generation to generation. It is a
// net.Conn whose bytes are all accounted for: each is read by exactly one
// generation, and each that Write has taken is sent, once and in order.
//
// # Reading
//
// What the application has read it works on for a while, and a split must not
// come in between. The library has to know when a message has been dealt with.
// There are three ways, and a connection uses one of them:
//
//   - Read from the Conn itself, a whole message or any other piece at a time.
//     Back in Read, all that was read before counts as dealt with.
//   - Read through Reader, for protocols of lines that end in a newline. When its
//     buffer needs to be filled, all that has been taken out of it counts as dealt
//     with; what is still in it does not. A message has to be taken out by one
//     call: ReadString, ReadBytes, ReadSlice, ReadLine, Peek with Discard. A line
//     may be longer than the buffer. ReadLine, and what is built on it, returns half
//     a line without an error when the reading ends in it; if the connection was
//     handed over, Write(nil) says so then.
//   - Call Mark, for anything else: a message that takes several reads, as a
//     length and then a body, or buffers of the application's own (a bufio.Scanner
//     is one). Call Mark(nil) before the first read, and Mark after each message.
//
// The cut waits until each connection whose bytes are being worked on has come to
// such a point, for Options.FreezeTimeout at most. Then the split fails with the
// connection's name. What has been read and not dealt with travels, and is read
// first in the next generation. A connection from which nothing is being read
// holds nothing up.
//
// # Writing
//
// When a cut begins, a Write that waits for a slow peer returns with success: the
// rest is sent by the next generation, before anything else, or by this one if the
// split fails. Once everything is at rest Write and Close wait for the outcome.
//
// After the commit, every call in the old generation returns an error that matches
// both net.ErrClosed and ErrSuperseded; the peer notices nothing. If the split
// fails, all calls go on.
//
// Deadlines, options of the socket and half-closed directions are in the next
// generation as they were. All methods may be called concurrently, except that
// Reader's buffer and Mark belong to the one who reads.
type Conn struct {
	registry  *Registry
	name      string
	network   string // as the application asked for it
	address   string
	inherited bool

	inner   streamConn
	raw     syscall.RawConn
	removed atomic.Bool

	reading sync.Mutex // held by the one caller of Read
	r       readHalf
	writing sync.Mutex // held by the one caller of Write
	w       writeHalf
}

// newConn wraps inner. Both halves are open.
func newConn(m *Registry, name, network, address string, inner streamConn) (*Conn, error) {
	raw, err := inner.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{registry: m, name: name, network: network, address: address, inner: inner, raw: raw}
	c.r.changed.L = &c.r.mu
	c.w.changed.L = &c.w.mu
	c.r.once = c.readOnce
	c.w.once = c.writeOnce
	return c, nil
}

// Read reads, as net.Conn says. All that Read has returned before counts as dealt
// with, unless Mark is in use.
func (c *Conn) Read(p []byte) (int, error) { return c.read(p, false) }

// Reader returns the connection's buffered reader, always the same one; see
// [Conn].
func (c *Conn) Reader() *bufio.Reader {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.reader == nil {
		c.r.reader = bufio.NewReaderSize(bufferedSource{c}, readerSize)
	}
	return c.r.reader
}

// Mark says that everything read so far has been dealt with, except unread, which
// the application holds in a buffer of its own, and what is in the buffer of
// Reader. unread is copied. From the first call on, nothing counts as dealt with
// for any other reason.
//
// While a cut is going on, Mark waits for its outcome if there is something left
// to work on. It returns an error that matches ErrSuperseded if the next
// generation has the connection, and net.ErrClosed if it is closed.
func (c *Conn) Mark(unread []byte) error {
	if err := c.mark(unread); err != nil {
		return c.operror("mark", err)
	}
	return nil
}

// Unread puts bytes in front of what Read returns next. b is copied. What was read
// ahead before the connection came under the registry's care is better given to
// AddConn, so that no cut comes in between.
func (c *Conn) Unread(b []byte) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.pending = append(append([]byte(nil), b...), c.r.pending...)
}

// Write writes, as net.Conn says. When it has returned n, n bytes will be sent,
// whichever generation does it.
func (c *Conn) Write(p []byte) (int, error) { return c.write(p) }

// Close closes the connection, and takes its name out of the registry. The peer
// sees the end at once, in every generation. During a cut Close waits; if the next
// generation has taken over, the connection is its own, and Close returns an error
// that matches ErrSuperseded.
func (c *Conn) Close() error {
	if err := c.shut(); err != nil {
		return c.operror("close", err)
	}
	c.registry.forget(c)
	return c.closeInner()
}

// CloseRead shuts down the reading side, as (*net.TCPConn).CloseRead does.
func (c *Conn) CloseRead() error { return c.inner.CloseRead() }

// CloseWrite shuts down the writing side, after all that Write has taken.
func (c *Conn) CloseWrite() error { return c.closeWrite() }

// LocalAddr returns the local address.
func (c *Conn) LocalAddr() net.Addr { return c.inner.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// Name returns the name in the registry.
func (c *Conn) Name() string { return c.name }

// Inherited says whether the connection came from the old generation.
func (c *Conn) Inherited() bool { return c.inherited }

// NetConn returns the connection beneath, a *net.TCPConn or *net.UnixConn, for its
// options. What is read or written through it is not accounted for, and not held
// back during a cut.
func (c *Conn) NetConn() net.Conn { return c.inner }

// SyscallConn gives access to the socket, for its options.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.inner.SyscallConn() }

// SetDeadline bounds reads and writes, as net.Conn says, in every generation. A
// call that waits for the end of a cut waits past its deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.deadline = t
	if c.r.expired {
		return nil // it is set after the cut
	}
	return c.inner.SetReadDeadline(t)
}

// SetWriteDeadline bounds writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.deadline = t
	if c.w.absorbed {
		return nil // the Write that ends just now puts it in force
	}
	if len(c.w.unsent) > 0 {
		go c.flush()
	}
	return c.inner.SetWriteDeadline(t)
}

func (c *Conn) operror(op string, err error) error {
	if op, ok := err.(*net.OpError); ok {
		err = op.Err
	}
	return &net.OpError{Op: op, Net: c.inner.LocalAddr().Network(), Source: c.inner.LocalAddr(), Addr: c.inner.RemoteAddr(), Err: err}
}

// Dial returns the connection of that name: the inherited one, if the old
// generation had it with the same network and address, else a new one. Networks
// are "tcp", "tcp4", "tcp6" and "unix". Asking for another address dials that, and
// closes the inherited connection once the new one stands. [Conn.Inherited] tells
// which it is.
//
// The error matches ErrNotReady before Ready, in every generation; ErrNameTaken if
// this generation uses the name already; ErrInvalidName; ErrSuperseded or
// ErrClosed when this generation's part is over. The registry's other limits, and
// ctx, are those of net.Dialer.
func (m *Registry) Dial(ctx context.Context, name, network, address string) (*Conn, error) {
	c, err := m.dial(ctx, name, network, address)
	if err != nil {
		return nil, fmt.Errorf("mitosis: dial %q: %w", name, err)
	}
	return c, nil
}

func (m *Registry) dial(ctx context.Context, name, network, address string) (*Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	if err := m.checkNewConn(name); err != nil {
		return nil, err
	}
	if c, err := m.takeArrivedIf(name, func(a *arrivedConn) bool { return a.Network == network && a.Address == address }); !errors.Is(err, ErrNotFound) {
		return c, err
	}
	inner, err := m.options.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if other, err := m.takeArrivedIf(name, func(*arrivedConn) bool { return true }); err == nil {
		other.Close()
	}
	c, err := newConn(m, name, network, address, inner.(streamConn))
	if err == nil {
		err = m.addConn(c)
	}
	if err != nil {
		inner.Close()
		return nil, err
	}
	return c, nil
}

// checkNewConn finds out early what addConn would refuse.
func (m *Registry) checkNewConn(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connsExist(); err != nil {
		return err
	}
	_, socket := m.sockets[name]
	_, conn := m.conns[name]
	if socket || conn {
		return ErrNameTaken
	}
	return nil
}

// AddConn puts a connection under the registry's care, and returns the Conn to use
// instead of it: an accepted one, or one that the application has dialled itself.
// unread is what a buffer of the application's has read ahead, for example that of
// http.Hijacker; it is read first, and copied.
//
// The error matches ErrNotTransferable if c is not a *net.TCPConn or a stream
// *net.UnixConn (or one of these as [Listener.Accept] or a hijacked request of
// package httpx returns it), and otherwise those of Dial; c is then still the caller's. During
// a cut AddConn waits. If it then returns ErrSuperseded, the connection was
// accepted too late to travel: give it to [Listener.Forward].
func (m *Registry) AddConn(name string, c net.Conn, unread ...[]byte) (*Conn, error) {
	inner, early, err := unwrapConn(c)
	if err == nil {
		err = m.checkNewConn(name)
	}
	var managed *Conn
	if err == nil {
		managed, err = newConn(m, name, c.LocalAddr().Network(), c.RemoteAddr().String(), inner)
	}
	if err == nil {
		managed.r.pending = slices.Concat(append([][]byte{early}, unread...)...)
		err = m.addConn(managed)
	}
	if err != nil {
		return nil, fmt.Errorf("mitosis: add conn %q: %w", name, err)
	}
	leave(c)
	return managed, nil
}

// transferableConn returns the connection with a descriptor that c is.
func transferableConn(c net.Conn) (streamConn, error) {
	switch c := c.(type) {
	case *net.TCPConn:
		if c != nil && c.LocalAddr() != nil {
			return c, checkOpen(c)
		}
	case *net.UnixConn:
		if c != nil && c.LocalAddr() != nil {
			if network := c.LocalAddr().Network(); network != "unix" {
				return nil, fmt.Errorf("%s connection %w: only streams are", network, ErrNotTransferable)
			}
			return c, checkOpen(c)
		}
	case *Conn:
		return nil, fmt.Errorf("%w: it is connection %q of a registry already", ErrNameTaken, c.name)
	}
	return nil, fmt.Errorf("%T %w; if it wraps another connection, as TLS does, its own state could not follow", c, ErrNotTransferable)
}

// checkOpen says now what would be said at the cut.
func checkOpen(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(uintptr) {})
}

// Conn returns the connection of that name: one that this generation has dialled or
// added, or one that came from the old generation. Otherwise the error matches
// ErrNotFound; before Ready, in every generation, ErrNotReady.
func (m *Registry) Conn(name string) (*Conn, error) {
	c, err := m.conn(name)
	if err != nil {
		return nil, fmt.Errorf("mitosis: conn %q: %w", name, err)
	}
	return c, nil
}
