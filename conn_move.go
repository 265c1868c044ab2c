package mitosis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// arrivedConn is a connection that came from the old generation and that nobody
// has asked for yet. It is only a descriptor: making a net.Conn of it is no work
// for the cut.
type arrivedConn struct {
	wire.ConnRecord
	descriptor     int
	unread, unsent []byte
}

// Conns returns the connections whose names begin with prefix, in the order of
// their names: those that came from the old generation, and those that this one has
// dialled or added. Before Ready there are none. One that cannot be made a
// connection again is logged, and stays for the next call.
func (m *Registry) Conns(prefix string) []*Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.connsExist() != nil {
		return nil
	}
	for name := range m.arrived {
		if strings.HasPrefix(name, prefix) {
			if _, err := m.takeArrived(name); err != nil {
				m.log.Error("mitosis: conn", "name", name, "error", err)
			}
		}
	}
	var list []*Conn
	for name, c := range m.conns {
		if strings.HasPrefix(name, prefix) {
			list = append(list, c)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list
}

// conn returns the connection of that name.
func (m *Registry) conn(name string) (*Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connsExist(); err != nil {
		return nil, err
	}
	if c, ok := m.conns[name]; ok {
		return c, nil
	}
	return m.takeArrived(name)
}

// takeArrivedIf returns the connection of that name if it came from the old
// generation, nobody has asked for it yet and it is a wanted one.
func (m *Registry) takeArrivedIf(name string, wanted func(*arrivedConn) bool) (*Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connsExist(); err != nil {
		return nil, err
	}
	if a, ok := m.arrived[name]; !ok || !wanted(a) {
		return nil, ErrNotFound
	}
	return m.takeArrived(name)
}

// connsExist says whether this is the time of live connections, with m.mu held.
func (m *Registry) connsExist() error {
	switch m.phase {
	case warming, loading, pledged:
		return ErrNotReady
	case draining:
		return ErrSuperseded
	case closed:
		return ErrClosed
	}
	return nil
}

// addConn registers c. Once the connections have been counted for a cut it waits
// for the outcome.
func (m *Registry) addConn(c *Conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.sealed {
		m.changed.Wait()
	}
	if err := m.connsExist(); err != nil {
		return err
	}
	_, socket := m.sockets[c.name]
	_, conn := m.conns[c.name]
	_, arrived := m.arrived[c.name]
	if socket || conn || arrived {
		return ErrNameTaken
	}
	if m.readsShut {
		c.freeze()
	}
	m.conns[c.name] = c
	return nil
}

// forget takes a closed connection out.
func (m *Registry) forget(c *Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[c.name] == c {
		delete(m.conns, c.name)
	}
}

// predecessorLives says whether the old process may still hold descriptors.
func (m *Registry) predecessorLives() bool { return m.oldLives.Load() }

// takeArrived makes a Conn of a descriptor, with m.mu held.
func (m *Registry) takeArrived(name string) (*Conn, error) {
	for m.sealed {
		m.changed.Wait()
		if err := m.connsExist(); err != nil {
			return nil, err
		}
	}
	a, ok := m.arrived[name]
	if !ok {
		return nil, ErrNotFound
	}
	inner, err := rebuildConn(a.descriptor)
	if err != nil {
		return nil, fmt.Errorf("rebuild from descriptor %d: %w", a.descriptor, err)
	}
	c, err := newConn(m, name, a.Network, a.Address, inner)
	if err != nil {
		inner.Close()
		return nil, err
	}
	sys.CloseDescriptor(a.descriptor)
	delete(m.arrived, name)
	c.inherited = true
	c.r.pending, c.w.unsent = a.unread, a.unsent
	c.w.closing = a.Flags&wire.ClosingFlag != 0
	if a.ReadDeadline != 0 {
		c.SetReadDeadline(deadlineOf(a.ReadDeadline))
	}
	if a.WriteDeadline != 0 {
		c.SetWriteDeadline(deadlineOf(a.WriteDeadline))
	}
	if m.readsShut {
		c.freeze()
	}
	m.conns[name] = c
	if len(a.unsent) > 0 || a.Flags&wire.ClosingFlag != 0 {
		go c.flush()
	}
	return c, nil
}

// rebuildConn makes a connection of a descriptor, which stays the caller's. What
// net.FileConn changes is put back.
func rebuildConn(fd int) (streamConn, error) {
	dup, err := sys.DuplicateDescriptor(fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "conn")
	defer f.Close() // net.FileConn works on another duplicate
	options := sys.TCPOptions(fd)
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	stream, ok := conn.(streamConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%T is not a stream", conn)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			options.Restore(raw)
		}
	}
	return stream, nil
}

// open lets both halves go on: a thaw.
func (c *Conn) open() {
	c.r.mu.Lock()
	if c.r.shut {
		c.r.shut = false
		if c.r.expired {
			c.r.expired = false
			c.inner.SetReadDeadline(c.r.deadline)
		}
		c.r.changed.Broadcast()
	}
	c.r.mu.Unlock()
	c.w.mu.Lock()
	if c.w.shut {
		c.w.shut = false
		c.w.changed.Broadcast()
	}
	c.w.absorb = false
	rest := len(c.w.unsent) > 0 || c.w.closing
	c.w.mu.Unlock()
	if rest {
		go c.flush()
	}
}

// supersede ends this generation's part of the connection. The peer notices
// nothing: the next generation has the socket.
func (c *Conn) supersede() {
	c.w.mu.Lock()
	if c.w.final == nil {
		c.w.final = handedOver
		c.w.changed.Broadcast()
	}
	c.w.mu.Unlock()
	c.endRead(handedOver)
	c.inner.Close()
}

// freezeConns shuts the reading side of every connection and waits until what was
// read has been dealt with.
func (m *Registry) freezeConns(ctx context.Context) error {
	conns := m.snapshot(func() { m.readsShut = true })
	for _, c := range conns {
		c.freeze()
	}
	for _, c := range conns {
		if err := c.awaitFrozen(ctx); err != nil {
			return fmt.Errorf("connection %q does not come to rest: %w", c.name, err)
		}
	}
	return nil
}

// sealConns shuts the writing side of every connection. From here on until the
// outcome the set of connections does not change.
func (m *Registry) sealConns(ctx context.Context) error {
	for _, c := range m.snapshot(func() { m.sealed = true }) {
		if err := c.seal(ctx); err != nil {
			return fmt.Errorf("connection %q does not come to rest: %w", c.name, err)
		}
	}
	return nil
}

// snapshot returns the connections, after change.
func (m *Registry) snapshot(change func()) []*Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	list := make([]*Conn, 0, len(m.conns))
	for _, c := range m.conns {
		list = append(list, c)
	}
	return list
}

// thawConns undoes freezeConns and sealConns.
func (m *Registry) thawConns() {
	for _, c := range m.snapshot(m.unseal) {
		c.open()
	}
}

func (m *Registry) unseal() {
	m.readsShut, m.sealed = false, false
	m.changed.Broadcast()
}

// supersedeConns lets go of the connections that the next generation has.
func (m *Registry) supersedeConns() {
	conns := m.snapshot(func() {})
	m.mu.Lock()
	arrived := m.arrived
	m.conns, m.arrived = map[string]*Conn{}, map[string]*arrivedConn{}
	m.mu.Unlock()
	for _, c := range conns {
		c.supersede()
	}
	for _, a := range arrived {
		sys.CloseDescriptor(a.descriptor)
	}
}

// leaving is a connection on its way to the next generation.
type leaving struct {
	record         wire.ConnRecord
	duplicate      func() (int, error)
	unread, unsent []byte
}

// leavingConn describes a sealed connection.
func (c *Conn) leaving() leaving {
	l := leaving{
		record:    wire.ConnRecord{Name: c.name, Network: c.network, Address: c.address},
		duplicate: func() (int, error) { return sys.Duplicate(c.inner) },
	}
	c.r.mu.Lock()
	l.unread = c.r.unread()
	l.record.ReadDeadline = deadlineNanoseconds(c.r.deadline)
	c.r.mu.Unlock()
	c.w.mu.Lock()
	l.unsent = c.w.unsent
	l.record.WriteDeadline = deadlineNanoseconds(c.w.deadline)
	if c.w.closing {
		l.record.Flags |= wire.ClosingFlag
	}
	c.w.mu.Unlock()
	return l
}

func deadlineNanoseconds(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case !t.After(time.Unix(0, 0)):
		return 1 // past, and not the zero that means none
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// deadlineOf is the inverse of deadlineNanoseconds.
func deadlineOf(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// sendConns sends the connections, and says how many they were.
func (s *split) sendConns(ctx context.Context) (int, error) {
	m := s.m
	var list []leaving
	for _, c := range m.snapshot(func() {}) {
		list = append(list, c.leaving())
	}
	m.mu.Lock()
	for _, a := range m.arrived {
		list = append(list, leaving{a.ConnRecord, func() (int, error) { return sys.DuplicateDescriptor(a.descriptor) }, a.unread, a.unsent})
	}
	m.mu.Unlock()
	sent := 0
	for len(list) > 0 {
		n := min(len(list), wire.MaxDescriptors)
		some, err := s.sendSomeConns(ctx, list[:n])
		if err != nil {
			return sent, err
		}
		sent += some
		list = list[n:]
	}
	return sent, nil
}

// sendSomeConns sends one frame of connections and the bytes that go with them.
func (s *split) sendSomeConns(ctx context.Context, list []leaving) (int, error) {
	var records []wire.ConnRecord
	var fds []int
	var parts [][]byte
	defer func() {
		for _, fd := range fds {
			sys.CloseDescriptor(fd)
		}
	}()
	for _, l := range list {
		fd, err := l.duplicate()
		if errors.Is(err, net.ErrClosed) {
			s.m.log.Warn("mitosis: connection was closed behind the registry's back", "name", l.record.Name)
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("connection %q: %w", l.record.Name, err)
		}
		fds = append(fds, fd)
		l.record.Unread, l.record.Unsent = uint64(len(l.unread)), uint64(len(l.unsent))
		records = append(records, l.record)
		parts = append(parts, l.unread, l.unsent)
	}
	if len(records) == 0 {
		return 0, nil
	}
	if err := s.send(ctx, wire.Frame{Kind: wire.Conns, Payload: wire.AppendConns(nil, records), Descriptors: fds}); err != nil {
		return 0, err
	}
	return len(records), sendData(parts, func(f wire.Frame) error { return s.send(ctx, f) })
}

// sendData sends parts in Data frames, as one stream of bytes.
func sendData(parts [][]byte, send func(wire.Frame) error) error {
	const perFrame = 256 << 10
	var payload []byte
	flush := func() error {
		if len(payload) == 0 {
			return nil
		}
		err := send(wire.Frame{Kind: wire.Data, Payload: payload})
		payload = payload[:0]
		return err
	}
	for _, part := range parts {
		for len(part) > 0 {
			n := min(len(part), perFrame-len(payload))
			payload = append(payload, part[:n]...)
			part = part[n:]
			if len(payload) == perFrame {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// takeConns takes up the connections of one Conns frame.
func (t *takeover) takeConns(ctx context.Context, frame wire.Frame) (int, error) {
	records, err := wire.DecodeConns(frame.Payload)
	if err == nil && len(records) != len(frame.Descriptors) {
		err = fmt.Errorf("%d records with %d descriptors", len(records), len(frame.Descriptors))
	}
	if err != nil {
		wire.CloseDescriptors(frame.Descriptors)
		return 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	m := t.m
	var needy []*arrivedConn
	for i, r := range records {
		a := &arrivedConn{ConnRecord: r, descriptor: frame.Descriptors[i]}
		m.mu.Lock()
		_, twice := m.arrived[r.Name]
		_, socket := m.sockets[r.Name]
		if err = checkName(r.Name); err == nil && twice {
			err = ErrNameTaken
		}
		if err == nil && !socket {
			m.arrived[r.Name] = a
		}
		m.mu.Unlock()
		if err != nil {
			wire.CloseDescriptors(frame.Descriptors[i:])
			return 0, fmt.Errorf("%w: connection %q: %w", ErrProtocol, r.Name, err)
		}
		if socket {
			m.log.Warn("mitosis: connection closed, this generation has a socket of its name", "name", r.Name)
			sys.CloseDescriptor(a.descriptor)
		}
		if r.Unread > 0 || r.Unsent > 0 {
			needy = append(needy, a)
		}
	}
	var data dataReader
	for i, a := range needy {
		if a.unread, err = data.read(a.Unread, func() (wire.Frame, error) { return t.next(ctx) }); err == nil {
			a.unsent, err = data.read(a.Unsent, func() (wire.Frame, error) { return t.next(ctx) })
		}
		if err != nil {
			m.dropArrived(needy[i:])
			return 0, fmt.Errorf("connection %q: %w", a.Name, err)
		}
	}
	if len(data.rest) > 0 {
		return 0, fmt.Errorf("%w: %d bytes belong to no connection", ErrProtocol, len(data.rest))
	}
	return len(records), nil
}

// dropArrived lets go of connections whose bytes did not arrive: if the old process
// is dead nobody has them, and a stream with a gap is worse than none.
func (m *Registry) dropArrived(list []*arrivedConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range list {
		if m.arrived[a.Name] == a {
			delete(m.arrived, a.Name)
			sys.CloseDescriptor(a.descriptor)
			m.log.Warn("mitosis: connection closed, what had been read from it is lost", "name", a.Name)
		}
	}
}

// dataReader takes the bytes of connections out of Data frames.
type dataReader struct{ rest []byte }

// read returns the next n bytes. Memory is taken as they come, not as announced.
func (d *dataReader) read(n uint64, next func() (wire.Frame, error)) ([]byte, error) {
	var b []byte
	for uint64(len(b)) < n {
		if len(d.rest) == 0 {
			frame, err := next()
			if err != nil {
				return nil, err
			}
			if frame.Kind != wire.Data || len(frame.Descriptors) > 0 || len(frame.Payload) == 0 {
				wire.CloseDescriptors(frame.Descriptors)
				return nil, fmt.Errorf("%w: %v where DATA was expected", ErrProtocol, frame.Kind)
			}
			d.rest = frame.Payload
		}
		take := min(n-uint64(len(b)), uint64(len(d.rest)))
		b = append(b, d.rest[:take]...)
		d.rest = d.rest[take:]
	}
	return b, nil
}
