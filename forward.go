package mitosis

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// Forward gives a connection that this listener has accepted to the next
// generation: its listener of the same name returns it from Accept as if it had
// just come in, with unread in front of what its peer sends, and not before there
// is something to read. The peer notices nothing. c must not be used afterwards: on
// success it is closed here.
//
// It is for the old generation after the commit, which Done tells: then a protocol
// hands on each connection at a message boundary of its own. Before, the error
// matches ErrNotReady; if the next generation has gone, or has no such listener,
// the error says so. If c is not a *net.TCPConn or stream *net.UnixConn it matches
// ErrNotTransferable. On an error c is still the caller's.
func (l *Listener) Forward(c net.Conn, unread []byte) error {
	return l.ForwardUntil(c, unread, time.Time{})
}

// ForwardUntil is Forward with a limit for a peer that stays silent: if nothing
// has come from it at the deadline, the generation that has the connection then
// closes it, and Accept never returns it. The zero time is no limit. This is how
// the idle timeout of a protocol goes on over a restart.
func (l *Listener) ForwardUntil(c net.Conn, unread []byte, deadline time.Time) error {
	if err := l.forward(c, unread, deadline); err != nil {
		return fmt.Errorf("mitosis: forward from listener %q: %w", l.name, err)
	}
	return nil
}

func (l *Listener) forward(c net.Conn, unread []byte, deadline time.Time) error {
	inner, early, err := unwrapConn(c)
	if err != nil {
		return err
	}
	unread = append(early, unread...)
	link, err := l.registry.successorLink()
	if err != nil {
		return err
	}
	fd, err := sys.Duplicate(inner)
	if err != nil {
		return err
	}
	defer sys.CloseDescriptor(fd)
	record := wire.ConnRecord{Name: l.name, ReadDeadline: deadlineNanoseconds(deadline)}
	if err := sendForward(link, record, fd, unread); err != nil {
		return err
	}
	leave(c)
	return inner.Close()
}

// sendForward sends a connection, whose descriptor stays the caller's, to the next
// generation.
func sendForward(link *wire.Link, record wire.ConnRecord, fd int, unread []byte) error {
	record.Unread = uint64(len(unread))
	frames := []wire.Frame{{Kind: wire.Forward, Payload: wire.AppendConns(nil, []wire.ConnRecord{record}), Descriptors: []int{fd}}}
	sendData([][]byte{unread}, func(f wire.Frame) error {
		f.Payload = append([]byte(nil), f.Payload...)
		frames = append(frames, f)
		return nil
	})
	return link.Send(frames...)
}

// successorLink returns the link to the generation that has taken over.
func (m *Registry) successorLink() (*wire.Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.successor == nil {
		return nil, fmt.Errorf("%w: there is no next generation yet", ErrNotReady)
	}
	return m.successor, nil
}

// forwardedConn is a connection that an older generation has handed on, or that
// was taken from the queue of the socket at its end.
type forwardedConn struct {
	conn     streamConn
	unread   []byte
	deadline time.Time // for its peer to send something; zero is none
	fresh    bool      // from the queue
}

// AcceptForwarded is Accept for a protocol that treats a connection from an older
// generation in another way than a new one. If forwarded is true, c is such a
// connection, as the net package makes it, and unread is what was read from it
// before and comes in front of what c will read.
func (l *Listener) AcceptForwarded() (c net.Conn, unread []byte, forwarded bool, err error) {
	var f *forwardedConn
	err = l.gate.do(func() (err error) {
		if f = l.nextForwarded(); f != nil {
			c = f.conn
			return nil
		}
		if c, err = l.inner.Accept(); err != nil && l.isDrained() {
			return errDrained
		}
		return err
	})
	select {
	case l.accepts <- struct{}{}:
	default:
	}
	if errors.Is(err, errDrained) {
		f, err = l.awaitForwarded()
		if f != nil {
			c = f.conn
		}
	}
	if err != nil {
		return nil, nil, false, l.operror("accept", err)
	}
	if f != nil && !f.fresh {
		return c, f.unread, true, nil
	}
	if tcp, ok := c.(*net.TCPConn); ok && l.inherited {
		l.registry.configureAccepted(tcp)
	}
	return c, nil, false, nil
}

// nextForwarded takes a connection from the queue. If others are left, it wakes
// another caller of Accept for them.
func (l *Listener) nextForwarded() *forwardedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.forwarded) == 0 {
		return nil
	}
	f := l.forwarded[0]
	l.forwarded = l.forwarded[1:]
	if len(l.forwarded) > 0 {
		l.gate.poke()
	}
	return f
}

// take queues a forwarded connection for Accept, when it is readable.
func (l *Listener) take(f *forwardedConn) {
	if len(f.unread) > 0 {
		l.queue(f)
		return
	}
	l.mu.Lock()
	if l.parked == nil {
		l.parked = map[*forwardedConn]bool{}
	}
	l.parked[f] = true
	drained := l.drained
	l.mu.Unlock()
	f.conn.SetReadDeadline(f.deadline)
	go l.awaitReadable(f)
	if drained {
		l.unpark()
	}
	l.settle()
}

// unpark lets Accept return what is parked: at the end of a service nobody waits
// for silent peers any more.
func (l *Listener) unpark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.parked {
		f.conn.SetReadDeadline(past)
	}
}

// pending says whether connections are left that Accept will return.
func (l *Listener) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.forwarded)+len(l.parked) > 0
}

// queue makes Accept return f.
func (l *Listener) queue(f *forwardedConn) {
	l.mu.Lock()
	l.forwarded = append(l.forwarded, f)
	l.arrival.Broadcast()
	l.mu.Unlock()
	l.gate.poke()
	l.settle()
}

// awaitReadable queues f when its peer has sent something, or has closed it.
func (l *Listener) awaitReadable(f *forwardedConn) {
	err := sys.AwaitReadable(f.conn)
	l.mu.Lock()
	parked := l.parked[f]
	delete(l.parked, f)
	silent := err != nil && !(l.drained && (f.deadline.IsZero() || time.Now().Before(f.deadline)))
	if parked && !silent {
		f.conn.SetReadDeadline(time.Time{})
		f.deadline = time.Time{}
		l.forwarded = append(l.forwarded, f)
		l.arrival.Broadcast()
	}
	l.mu.Unlock()
	switch {
	case !parked: // it has gone on to the next generation, or is closed
	case silent:
		f.conn.Close()
	default:
		l.gate.poke()
		l.settle()
	}
}

// settle deals with what came when the end was over already.
func (l *Listener) settle() {
	if l.gate.ended() != nil {
		l.dropForwarded()
	}
}

// forwardRest hands on what nobody here will accept any more, once the next
// generation has the listener. The registry's Close waits for it: whoever calls this
// may have taken the connections that others would hand on before.
func (l *Listener) forwardRest() {
	if !l.gate.endedWith(ErrSuperseded) {
		return
	}
	l.mu.Lock()
	rest := l.takeRest()
	if len(rest) > 0 {
		l.registry.handing.Add(1)
		defer l.registry.handing.Done()
	}
	l.mu.Unlock()
	for _, f := range rest {
		f.conn.SetReadDeadline(past) // awaitReadable ends, and finds it gone
		if err := l.ForwardUntil(f.conn, f.unread, f.deadline); err != nil {
			l.registry.log.Error("mitosis: a connection could not be handed on", "name", l.name, "error", err)
			f.conn.Close()
		}
	}
}

// takeRest takes all forwarded connections that Accept has not returned, with l.mu
// held.
func (l *Listener) takeRest() []*forwardedConn {
	rest := l.forwarded
	for f := range l.parked {
		rest = append(rest, f)
	}
	l.forwarded, l.parked = nil, nil
	return rest
}

// dropForwarded closes what was forwarded and not accepted: the listener is closed.
// If that is since the next generation has it, the connections are that one's.
func (l *Listener) dropForwarded() {
	l.forwardRest()
	if l.gate.endedWith(ErrSuperseded) {
		return // what comes now is handed on by the one who brings it
	}
	l.mu.Lock()
	rest := l.takeRest()
	l.mu.Unlock()
	for _, f := range rest {
		f.conn.Close()
	}
}

// transparentConn is a connection that wraps another and changes no byte of it.
type transparentConn interface {
	net.Conn
	NetConn() net.Conn // the one beneath
	Unread() []byte    // what was read from that and comes first from Read
	Leave()            // it belongs to somebody else from now on
}

// unwrapConn returns the connection with a descriptor that c is, and a copy of what
// was read from it already.
func unwrapConn(c net.Conn) (inner streamConn, unread []byte, err error) {
	for {
		wrapper, ok := c.(transparentConn)
		if !ok {
			inner, err = transferableConn(c)
			return inner, unread, err
		}
		unread = append(append([]byte(nil), wrapper.Unread()...), unread...)
		c = wrapper.NetConn()
	}
}

// leave tells the wrappers of a connection that it has been handed on.
func leave(c net.Conn) {
	for {
		wrapper, ok := c.(transparentConn)
		if !ok {
			return
		}
		wrapper.Leave()
		c = wrapper.NetConn()
	}
}

// lateConn is a forwarded connection with bytes that were read before.
type lateConn struct {
	net.Conn
	mu     sync.Mutex
	unread []byte
}

var _ transparentConn = (*lateConn)(nil)

// NetConn returns the connection beneath.
func (c *lateConn) NetConn() net.Conn { return c.Conn }

// Unread returns what comes first from Read.
func (c *lateConn) Unread() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unread
}

// Leave does nothing: the connection beneath is another's, and so are the bytes.
func (c *lateConn) Leave() {}

func (c *lateConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		c.mu.Unlock()
		return n, nil
	}
	c.mu.Unlock()
	return c.Conn.Read(p)
}
