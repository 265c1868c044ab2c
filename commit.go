package mitosis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// commit passes the ownership on. It is one byte in a pipe, the token: the new
// process owns everything from the moment it has read it, and this one can take it
// back for as long as nobody has. So there is one owner at every instant, however
// late an answer is.
func (s *split) commit(ctx context.Context) error {
	token, w, err := openPipe()
	if err != nil {
		return err
	}
	defer token.Close()
	theirs, err := sys.Duplicate(token)
	if err != nil {
		w.Close()
		return err
	}
	_, err = w.Write([]byte{1})
	err = errors.Join(err, w.Close())
	var frame wire.Frame
	if err == nil {
		frame, err = wire.Message(wire.Commit, struct{}{}, theirs)
	}
	if err == nil {
		err = s.send(ctx, frame)
	}
	sys.CloseDescriptor(theirs)
	if err == nil {
		step(stepOldCommitted)
		limit, cancel := s.limit(ctx, s.m.options.CommitTimeout)
		defer cancel()
		err = s.await(limit, wire.Ack, nil)
	}
	if n, _ := token.Read(make([]byte, 1)); n == 1 { // taken back: it will never own anything
		if err == nil {
			err = fmt.Errorf("%w: the new process acknowledged a commit that it has not taken", ErrProtocol)
		}
		return err
	}
	if err == nil {
		return nil
	}
	// It has read the token, and acknowledges before it does anything else.
	s.m.log.Warn("mitosis: the new process has the token and has not acknowledged yet", "child", s.child.Pid(), "error", err)
	limit, cancel := s.limit(context.Background(), s.m.options.CommitTimeout)
	defer cancel()
	if late := s.await(limit, wire.Ack, nil); late == nil {
		return nil
	}
	s.kill()
	for r := range s.frames {
		if r.err == nil && r.Kind == wire.Ack {
			s.m.log.Error("mitosis: the new process acknowledged the commit and is dead", "child", s.child.Pid())
			break
		}
	}
	return err
}

// kill kills and reaps the child.
func (s *split) kill() {
	s.child.Kill()
	<-s.exited
}

// abort undoes a split that failed with err: first the child dies, then the link
// is closed, and then the application goes on. So to a child that lives, a lost
// link always means that this process is dead. A child that has refused has closed
// its registry; it may end on its own while the application goes on already.
func (s *split) abort(err error) error {
	var refused *RefusedError
	switch {
	case s.child == nil:
	case errors.As(err, &refused):
		err = refused
		s.thaw()
		s.awaitExit()
		s.kill()
	case errors.Is(err, errChildGone):
		exit := &ExitError{Pid: s.child.Pid(), Phase: s.phase}
		if !s.awaitExit() {
			exit.Cause = fmt.Errorf("%w: it closed the control link and had to be killed", ErrProtocol)
		}
		s.kill()
		exit.Status = s.status
		err = exit
	default:
		s.kill()
		err = fmt.Errorf("%w (the new process, pid %d, was killed during %s)", err, s.child.Pid(), s.phase)
	}
	close(s.quit)
	if s.link != nil {
		s.link.Close()
	}
	if s.frames != nil {
		for r := range s.frames {
			wire.CloseDescriptors(r.Descriptors)
		}
	}
	s.enter("")
	s.thaw()
	s.m.endSplit(serving)
	return err
}

// awaitExit gives a child that is about to end a moment to do so.
func (s *split) awaitExit() bool {
	select {
	case <-s.exited:
		return true
	case <-time.After(exitTimeout):
		return false
	}
}

// thaw lets the application go on.
func (s *split) thaw() {
	if s.frozen {
		s.frozen = false
		s.m.thaw()
	}
}

// endSplit lets everything that waited for the outcome go on.
func (m *Registry) endSplit(outcome phase) {
	m.mu.Lock()
	deferred := m.deferred
	m.deferred, m.cancel = nil, nil
	m.setPhase(outcome)
	m.unseal()
	m.mu.Unlock()
	if outcome == serving {
		for _, f := range deferred {
			f()
		}
	}
}

// forwardBuffer is how many bytes of connections that are handed on wait on the link:
// a few. One with a request on its way is not to wait behind hundreds that are idle.
const forwardBuffer = 8 << 10

// supersede ends this generation: the next one has acknowledged the commit.
func (m *Registry) supersede(s *split) {
	m.mu.Lock()
	sockets := m.sorted()
	m.successor = s.link
	s.link.SetWriteBuffer(forwardBuffer)
	m.mu.Unlock()
	for _, socket := range sockets {
		socket.supersede()
	}
	m.supersedeConns()
	m.endSplit(draining)
	close(m.done)
	m.thawStates() // who now gets a lock can see that it is too late
	go m.passOnSplits()
}

// drain reads on, so that the link's end is seen, until this process ends.
func (s *split) drain() {
	for {
		select {
		case r, ok := <-s.frames:
			wire.CloseDescriptors(r.Descriptors)
			if !ok || r.err != nil {
				return
			}
		case <-s.m.over:
			close(s.quit)
			return
		}
	}
}
