package mitosis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

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
