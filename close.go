package mitosis

import (
	"errors"
	"net"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// close closes a socket for the application.
func (m *Registry) close(s socket, shut func() error) error {
	r := s.meta()
	if r.gone.Swap(true) {
		return net.ErrClosed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sockets[r.name] == s {
		delete(m.sockets, r.name)
	}
	err := shut()
	if r.path == nil {
		return err
	}
	switch {
	case m.phase == serving, r.removed.Load(), m.phase == warming && !r.inherited:
		return errors.Join(err, unlink(r.path))
	case m.phase == waiting, m.phase == frozen, m.phase == committing:
		m.deferred = append(m.deferred, func() { unlink(r.path) })
	}
	return err
}

// Close ends this generation's use of the registry. The committed generation
// closes every listener, packet conn and connection, unlinks the paths of Unix sockets and the
// PID file; one that has been superseded, or was never ready, closes only its own
// part. A split that is under way is given up. Signals get their default action
// back.
func (m *Registry) Close() error {
	m.mu.Lock()
	if m.cancel != nil {
		m.cancel(ErrClosed)
	}
	for m.phase == waiting || m.phase == frozen || m.phase == committing {
		m.changed.Wait()
	}
	if m.phase == closed {
		m.mu.Unlock()
		return ErrClosed
	}
	last := m.setPhase(closed)
	sockets := m.sockets
	unclaimed := m.inherited
	m.sockets, m.inherited = map[string]socket{}, map[string]*inheritedSocket{}
	conns, arrived := m.conns, m.arrived
	m.conns, m.arrived = map[string]*Conn{}, map[string]*arrivedConn{}
	m.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	for _, a := range arrived {
		sys.CloseDescriptor(a.descriptor)
	}

	var errs []error
	for _, s := range sockets {
		r := s.meta()
		err := s.discard()
		if r.gone.Swap(true) || errors.Is(err, net.ErrClosed) {
			err = nil
		}
		if r.path != nil && (last == serving || last != draining && !r.inherited) {
			err = errors.Join(err, unlink(r.path))
		}
		errs = append(errs, err)
	}
	for _, s := range unclaimed {
		sys.CloseDescriptor(s.descriptor)
	}
	if last == serving && m.options.PIDFile != "" {
		errs = append(errs, removePIDFile(m.options.PIDFile))
	}
	if last != draining {
		close(m.done)
	}
	m.signals.stop()
	close(m.over)
	if m.successor != nil {
		m.successor.SetWriteDeadline(time.Now().Add(lastSends)) // it may be stopped
		<-m.passedOn
		m.awaitHearings(lastSends)
		m.successor.Close()
	}
	if m.predecessor != nil {
		m.predecessor.Close()
	}
	m.release()
	return errors.Join(errs...)
}

// awaitHearings waits until the links of older processes have been passed on, and
// what they had sent. One that is stopped in the middle of a frame is not waited for.
func (m *Registry) awaitHearings(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		m.hearings.Wait()
		m.handing.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// lastSends is how long Close may take over what is still on its way to the next
// generation.
const lastSends = 5 * time.Second
