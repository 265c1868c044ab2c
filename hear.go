package mitosis

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// hearing takes what an older process sends while it drains: connections and
// signals. When this generation is superseded, too, the link goes on to the next
// one, so that nobody has to stay for the sake of an older process.
type hearing struct {
	m      *Registry
	link   *wire.Link
	pid    int // of the process at the other end
	frames <-chan received
	quit   chan struct{}

	leaving bool // the link goes on to the next generation
}

// start begins to hear.
func (h *hearing) start() {
	h.m.hearings.Add(1)
	go h.run()
}

// run hears until the other process or this one is gone.
func (h *hearing) run() {
	m := h.m
	defer m.hearings.Done()
	done, over := m.done, m.over
	for {
		select {
		case r, ok := <-h.frames:
			switch {
			case ok && h.leaving && errors.Is(r.err, os.ErrDeadlineExceeded):
				h.relay()
				return
			case !ok || r.err != nil:
				h.ended()
				return
			}
			h.take(r.Frame)
			h.leave() // take may have waited for the rest of something
		case <-done:
			done = nil
			h.leaving = m.superseded()
			h.leave()
		case <-over:
			over = nil
			if h.leaving = m.superseded(); h.leaving {
				h.leave() // Close waits for it
				continue
			}
			close(h.quit)
			h.link.Close()
			return
		}
	}
}

// superseded says whether there is a next generation.
func (m *Registry) superseded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.successor != nil
}

// leave makes the pump stop between two frames.
func (h *hearing) leave() {
	if h.leaving {
		h.link.SetReadDeadline(past)
	}
}

// ended notes that the other process is gone.
func (h *hearing) ended() {
	if h.link == h.m.predecessor {
		h.m.oldLives.Store(false)
	}
	h.link.Close()
	h.m.log.Info("mitosis: the old process is gone", "predecessor", h.pid)
}

// take deals with one frame.
func (h *hearing) take(frame wire.Frame) {
	var err error
	switch frame.Kind {
	case wire.Forward:
		err = h.takeForwarded(frame)
	case wire.Relay:
		err = h.takeRelayed(frame)
	case wire.Signal:
		var notice wire.Notice
		if err = frame.Decode(&notice, 0); err == nil {
			h.m.request(request{stop: notice.Stop})
		}
		wire.CloseDescriptors(frame.Descriptors)
	default:
		wire.CloseDescriptors(frame.Descriptors)
	}
	if err != nil {
		h.m.log.Error("mitosis: from an older process", "frame", frame.Kind.String(), "predecessor", h.pid, "error", err)
	}
}

// next returns the frame that has to follow the one that take has got.
func (h *hearing) next() (wire.Frame, error) {
	over := h.m.over
	for {
		select {
		case r, ok := <-h.frames:
			switch {
			case ok && h.leaving && errors.Is(r.err, os.ErrDeadlineExceeded):
				h.link.SetReadDeadline(time.Time{})
				h.frames = pump(h.link, h.quit)
				continue
			case !ok:
				return wire.Frame{}, ErrOldDied
			}
			return r.Frame, r.err
		case <-over:
			over = nil
			if !h.m.superseded() {
				return wire.Frame{}, ErrClosed
			}
		}
	}
}

// relay gives the link to the next generation.
func (h *hearing) relay() {
	m := h.m
	fd, buffered, arrived, err := h.link.Detach()
	if err == nil {
		descriptors := append([]int{fd}, arrived...)
		var frame wire.Frame
		if frame, err = wire.Message(wire.Relay, wire.Relaying{Pid: h.pid, Buffered: buffered}, descriptors...); err == nil {
			err = m.successor.Send(frame)
		}
		wire.CloseDescriptors(descriptors)
	}
	if err != nil {
		m.log.Warn("mitosis: what an older process still has cannot be handed on", "predecessor", h.pid, "error", err)
		return
	}
	m.log.Debug("mitosis: link passed on to the next generation", "predecessor", h.pid)
}

// takeRelayed takes up the link to a process that is older than the predecessor.
func (h *hearing) takeRelayed(frame wire.Frame) error {
	var what wire.Relaying
	if len(frame.Descriptors) == 0 {
		return fmt.Errorf("%w: RELAY without a descriptor", ErrProtocol)
	}
	if err := frame.Decode(&what, len(frame.Descriptors)); err != nil {
		wire.CloseDescriptors(frame.Descriptors)
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	link, err := wire.Resume(frame.Descriptors[0], what.Buffered, frame.Descriptors[1:])
	if err != nil {
		return err
	}
	older := &hearing{m: h.m, link: link, pid: what.Pid, quit: make(chan struct{})}
	older.frames = pump(link, older.quit)
	older.start()
	return nil
}

// takeForwarded takes up a connection that the old generation has handed on. If
// this generation has been superseded meanwhile, it goes on to the next.
func (h *hearing) takeForwarded(frame wire.Frame) error {
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
	unread, err := data.read(record.Unread, h.next)
	if err != nil {
		return err
	}
	m := h.m
	m.mu.Lock()
	for m.phase == frozen || m.phase == committing {
		m.changed.Wait()
	}
	l, ok := m.sockets[record.Name].(*Listener)
	successor := m.successor
	m.mu.Unlock()
	if successor != nil {
		return sendForward(successor, record, fd, unread)
	}
	if !ok {
		return fmt.Errorf("a connection is closed, there is no listener %q: %w", record.Name, ErrNotFound)
	}
	conn, err := rebuildConn(fd)
	if err != nil {
		return fmt.Errorf("a connection for listener %q: %w", record.Name, err)
	}
	l.take(&forwardedConn{conn: conn, unread: unread, deadline: deadlineOf(record.ReadDeadline)})
	return nil
}
