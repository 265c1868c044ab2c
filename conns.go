package mitosis

import (
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"

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
