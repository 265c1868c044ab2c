package mitosis

import (
	"context"
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
	if err := l.forward(c, unread); err != nil {
		return fmt.Errorf("mitosis: forward from listener %q: %w", l.name, err)
	}
	return nil
}

func (l *Listener) forward(c net.Conn, unread []byte) error {
	if late, ok := c.(*lateConn); ok {
		unread = append(append([]byte(nil), late.unread...), unread...)
		c = late.Conn
	}
	inner, err := transferableConn(c)
	if err != nil {
		return err
	}
	link, err := l.registry.successorLink()
	if err != nil {
		return err
	}
	fd, err := sys.Duplicate(inner)
	if err != nil {
		return err
	}
	defer sys.CloseDescriptor(fd)
	record := wire.ConnRecord{Name: l.name, Unread: uint64(len(unread))}
	frames := []wire.Frame{{Kind: wire.Forward, Payload: wire.AppendConns(nil, []wire.ConnRecord{record}), Descriptors: []int{fd}}}
	sendData([][]byte{unread}, func(f wire.Frame) error {
		f.Payload = append([]byte(nil), f.Payload...)
		frames = append(frames, f)
		return nil
	})
	if err := link.Send(frames...); err != nil {
		return err
	}
	return c.Close()
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

// takeForwarded takes up a connection that the old generation has handed on. If
// this generation has been superseded meanwhile, it goes on to the next.
func (t *takeover) takeForwarded(frame wire.Frame) error {
	records, err := wire.DecodeConns(frame.Payload)
	if err == nil && (len(records) != 1 || len(frame.Descriptors) != 1) {
		err = fmt.Errorf("FORWARD with %d records and %d descriptors", len(records), len(frame.Descriptors))
	}
	if err != nil {
		wire.CloseDescriptors(frame.Descriptors)
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	record, fd := records[0], frame.Descriptors[0]
	defer sys.CloseDescriptor(fd)
	var data dataReader
	unread, err := data.read(record.Unread, func() (wire.Frame, error) {
		return t.next(context.Background())
	})
	if err != nil {
		return err
	}
	m := t.m
	m.mu.Lock()
	for m.phase == frozen || m.phase == committing {
		m.changed.Wait()
	}
	l, ok := m.sockets[record.Name].(*Listener)
	m.mu.Unlock()
	if !ok {
		m.log.Warn("mitosis: forwarded connection closed, there is no listener of its name", "name", record.Name)
		return nil
	}
	inner, err := rebuildConn(fd)
	if err != nil {
		m.log.Error("mitosis: forwarded connection", "name", record.Name, "error", err)
		return nil
	}
	var c net.Conn = inner
	if len(unread) > 0 {
		c = &lateConn{Conn: inner, unread: unread}
	}
	l.take(c)
	return nil
}

// take queues a forwarded connection for Accept, when it is readable.
func (l *Listener) take(c net.Conn) {
	l.mu.Lock()
	if l.parked == nil {
		l.parked = map[net.Conn]bool{}
	}
	if _, ok := c.(*lateConn); ok {
		l.forwarded = append(l.forwarded, c)
	} else {
		l.parked[c] = true
		go l.awaitReadable(c)
	}
	l.mu.Unlock()
	l.gate.poke()
	l.forwardRest()
}

// awaitReadable queues c when its peer has sent something, or has closed it.
func (l *Listener) awaitReadable(c net.Conn) {
	readable := sys.AwaitReadable(c.(streamConn)) == nil
	l.mu.Lock()
	_, parked := l.parked[c]
	delete(l.parked, c)
	if parked && readable {
		l.forwarded = append(l.forwarded, c)
	}
	l.mu.Unlock()
	switch {
	case parked && readable:
		l.gate.poke()
		l.forwardRest()
	case parked:
		c.Close()
	}
}

// forwardRest hands on what nobody here will accept any more, once the next
// generation has the listener.
func (l *Listener) forwardRest() {
	if !l.gate.endedWith(ErrSuperseded) {
		return
	}
	l.mu.Lock()
	rest := l.forwarded
	for c := range l.parked {
		rest = append(rest, c)
		c.SetReadDeadline(past) // awaitReadable ends, and finds it gone
	}
	l.forwarded, l.parked = nil, nil
	l.mu.Unlock()
	for _, c := range rest {
		c.SetReadDeadline(time.Time{})
		if err := l.Forward(c, nil); err != nil {
			l.registry.log.Error("mitosis: a connection could not be handed on", "name", l.name, "error", err)
			c.Close()
		}
	}
}

// dropForwarded closes what was forwarded and not accepted: the listener is closed.
func (l *Listener) dropForwarded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.parked {
		c.Close()
	}
	for _, c := range l.forwarded {
		c.Close()
	}
	l.forwarded, l.parked = nil, nil
}

// lateConn is a forwarded connection with bytes that were read before.
type lateConn struct {
	net.Conn
	mu     sync.Mutex
	unread []byte
}

// NetConn returns the connection beneath.
func (c *lateConn) NetConn() net.Conn { return c.Conn }

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
