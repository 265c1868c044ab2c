package mitosis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// Ready says that this generation has done its preparations.
//
// In the first generation it writes the PID file and opens the gates: Accept and
// reads no longer wait. In a later one it asks the old process to hand over: that
// one comes to rest, its states are loaded here, and when all has arrived the
// ownership changes and the gates open here. Ready then returns nil. If the old
// process dies before the ownership has changed, this one owns what it has
// received, says so in the log, and Ready returns nil.
//
// On an error this process has taken nothing and the registry is closed; the old
// process serves on, and its Split returns the error's text. The caller should exit. It matches
// what a state's Load returned, ErrTruncated if the old process died in the middle of a
// state, ErrTimeout, ErrProtocol, or what ended ctx. Ready is called once.
func (m *Registry) Ready(ctx context.Context) error {
	m.mu.Lock()
	was := m.phase
	if was == warming {
		m.setPhase(loading)
	}
	m.mu.Unlock()
	switch was {
	case warming:
	case closed:
		return fmt.Errorf("mitosis: ready: %w", ErrClosed)
	default:
		return errors.New("mitosis: ready: it was called before")
	}
	began := time.Now()
	if m.predecessor == nil {
		if err := m.begin(); err != nil {
			m.Close()
			return fmt.Errorf("mitosis: ready: %w", err)
		}
		m.log.Info("mitosis: serving")
		return nil
	}
	t := &takeover{m: m, quit: make(chan struct{})}
	err := t.run(ctx)
	if err != nil {
		m.refuse(err)
		close(t.quit)
		m.Close()
		m.log.Error("mitosis: not ready", "error", err)
		return fmt.Errorf("mitosis: ready: %w", err)
	}
	m.log.Info("mitosis: serving", "predecessor", m.hello.Pid, "duration", time.Since(began))
	return nil
}

// begin starts the first generation.
func (m *Registry) begin() error {
	if m.options.PIDFile != "" {
		if err := writePIDFile(m.options.PIDFile); err != nil {
			return fmt.Errorf("PID file: %w", err)
		}
	}
	m.own()
	return nil
}

// own opens the gates.
func (m *Registry) own() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setPhase(serving)
	for _, s := range m.sockets {
		s.open()
	}
}

// refuse tells the old process why this one cannot go on.
func (m *Registry) refuse(reason error) {
	frame, err := wire.Message(wire.Refuse, wire.Refusal{Reason: firstBytes(reason.Error(), 64<<10), Version: errors.Is(reason, ErrVersion)})
	if err == nil {
		m.predecessor.SetWriteDeadline(time.Now().Add(time.Second))
		m.predecessor.Send(frame)
	}
}

// takeover is Ready in a later generation.
type takeover struct {
	m      *Registry
	frames <-chan received
	quit   chan struct{}
}

// errLost means that the old process is dead.
var errLost = errors.New("control link lost")

// run is the life of a takeover, from the top to the bottom.
func (t *takeover) run(ctx context.Context) error {
	m := t.m
	t.frames = pump(m.predecessor, t.quit)
	err := t.load(ctx)
	if err == nil {
		m.move(pledged)
		err = t.awaitCommit(ctx)
	}
	orphaned := errors.Is(err, errLost) && !m.isKilled()
	if err != nil && (!orphaned || errors.Is(err, ErrTruncated)) {
		return err
	}
	if orphaned && !m.oldDied() {
		return fmt.Errorf("%w: the control link was closed, and the old process (pid %d) lives", ErrProtocol, m.hello.Pid)
	}
	if orphaned {
		m.log.Warn("mitosis: the old process died before the commit; taking over what has arrived", "predecessor", m.hello.Pid, "error", err)
	}
	step(stepNewAcked)
	m.own()
	m.releaseUnclaimed()
	if m.options.PIDFile != "" {
		if err := writePIDFile(m.options.PIDFile); err != nil {
			m.log.Error("mitosis: PID file", "error", err)
		}
	}
	if !orphaned {
		m.predecessor.Send(wire.Frame{Kind: wire.Settled})
	}
	step(stepNewSettled)
	h := &hearing{m: m, link: m.predecessor, pid: int(m.hello.Pid), frames: t.frames, quit: t.quit}
	h.start()
	return nil
}

// oldDied makes sure that a lost link means what it should. A dying process closes
// its descriptors a moment before its children get another parent.
func (m *Registry) oldDied() bool {
	old := int(m.hello.Pid)
	if old == os.Getpid() {
		return true // it is a generation inside a test
	}
	for limit := time.Now().Add(exitTimeout); os.Getppid() == old; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			return false
		}
	}
	return true
}

// load asks for what moves at the cut, and takes it up.
func (t *takeover) load(ctx context.Context) error {
	m := t.m
	names := make([]string, 0, len(m.states))
	for _, s := range m.states {
		names = append(names, s.name)
	}
	frame, err := wire.Message(wire.Want, wire.Wanting{States: names})
	if err != nil {
		return err
	}
	step(stepNewWanting)
	if err := t.send(frame); err != nil {
		return err
	}
	step(stepNewWanted)
	loaded, conns := 0, 0
	for {
		frame, err := t.next(ctx)
		if err != nil {
			return err
		}
		switch frame.Kind {
		case wire.State:
			if err := t.loadOne(ctx, frame); err != nil {
				return err
			}
			loaded++
		case wire.Conns:
			n, err := t.takeConns(ctx, frame)
			if err != nil {
				return err
			}
			conns += n
		case wire.Complete:
			var total wire.Completion
			if err := frame.Decode(&total, 0); err != nil {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if total.States != loaded || total.Conns != conns {
				return fmt.Errorf("%w: %d states and %d connections arrived of %d and %d", ErrProtocol, loaded, conns, total.States, total.Conns)
			}
			step(stepNewLoaded)
			return t.send(wire.Frame{Kind: wire.Ready})
		default:
			wire.CloseDescriptors(frame.Descriptors)
			return fmt.Errorf("%w: unexpected %v", ErrProtocol, frame.Kind)
		}
	}
}

// loadOne loads one state while the old process saves it.
func (t *takeover) loadOne(ctx context.Context, frame wire.Frame) error {
	var what wire.StateName
	if err := frame.Decode(&what, 1); err != nil {
		wire.CloseDescriptors(frame.Descriptors)
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	pipe := os.NewFile(uintptr(frame.Descriptors[0]), "state "+what.Name)
	defer pipe.Close()
	state := t.m.findState(what.Name)
	if state == nil {
		return fmt.Errorf("%w: state %q was not asked for", ErrProtocol, what.Name)
	}
	step(stepNewLoading)
	began := time.Now()
	verdict := make(chan int64, 1)
	reader := &stateReader{pipe: pipe, verdict: verdict}
	loaded := make(chan error, 1)
	go func() { loaded <- loadState(state, reader) }()
	fail := func(err error) error {
		close(verdict)
		pipe.SetReadDeadline(past)
		return fmt.Errorf("state %q: %w", what.Name, err)
	}
	frames := t.frames
	for {
		select {
		case r, ok := <-frames:
			var end wire.StateName
			switch {
			case !ok || r.err != nil:
				err := fail(t.lost(r, ok))
				// The pipe has ended too; Load is told that it is cut short.
				if late := <-loaded; late != nil {
					err = fmt.Errorf("%w: %w", err, late)
				}
				return fmt.Errorf("%w: %w", ErrTruncated, err)
			case r.Kind != wire.StateEnd:
				wire.CloseDescriptors(r.Descriptors)
				return fail(fmt.Errorf("%w: unexpected %v", ErrProtocol, r.Kind))
			case r.Decode(&end, 0) != nil || end.Name != what.Name:
				return fail(fmt.Errorf("%w: wrong STATEEND", ErrProtocol))
			}
			verdict <- end.Bytes
			frames = nil // what comes next waits for Load
		case err := <-loaded:
			if err != nil {
				// The reason has to be on the link before the pipe breaks.
				err = fmt.Errorf("state %q: %w", what.Name, err)
				t.m.refuse(err)
				return err
			}
			t.m.log.Debug("mitosis: state loaded", "name", what.Name, "bytes", reader.n, "duration", time.Since(began))
			return nil
		case <-ctx.Done():
			return fail(context.Cause(ctx))
		}
	}
}

// awaitCommit waits until this process is the owner. It never helps itself: it
// owns when it has read the token, or when the old process is dead.
func (t *takeover) awaitCommit(ctx context.Context) error {
	step(stepNewReady)
	limit := t.m.options.StateTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &TimeoutError{Phase: "wait for the commit", Limit: limit})
	defer cancel()
	frame, err := t.next(ctx)
	if err != nil {
		return err
	}
	if frame.Kind != wire.Commit || len(frame.Descriptors) != 1 {
		wire.CloseDescriptors(frame.Descriptors)
		return fmt.Errorf("%w: unexpected %v", ErrProtocol, frame.Kind)
	}
	step(stepNewCommit)
	token := os.NewFile(uintptr(frame.Descriptors[0]), "token")
	defer token.Close()
	if n, _ := token.Read(make([]byte, 1)); n != 1 {
		// It ends this process next, unless it dies before: then nobody else serves.
		frame, err := t.next(ctx)
		if err == nil {
			wire.CloseDescriptors(frame.Descriptors)
			err = fmt.Errorf("%w: unexpected %v", ErrProtocol, frame.Kind)
		}
		return fmt.Errorf("the old process took the commit back: %w", err)
	}
	step(stepNewToken)
	return t.send(wire.Frame{Kind: wire.Ack})
}

// next returns the next frame.
func (t *takeover) next(ctx context.Context) (wire.Frame, error) {
	select {
	case r, ok := <-t.frames:
		if !ok || r.err != nil {
			return wire.Frame{}, t.lost(r, ok)
		}
		return r.Frame, nil
	case <-ctx.Done():
		return wire.Frame{}, context.Cause(ctx)
	}
}

// lost says what the end of the link means.
func (t *takeover) lost(r received, ok bool) error {
	switch {
	case !ok:
		return errLost
	case isLost(r.err):
		return fmt.Errorf("%w (%w)", errLost, ErrOldDied)
	case errors.Is(r.err, net.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("%w: from the old process: %w", ErrProtocol, r.err)
}

func (t *takeover) send(frame wire.Frame) error {
	err := t.m.predecessor.Send(frame)
	if isLost(err) {
		return fmt.Errorf("%w (%w)", errLost, ErrOldDied)
	}
	return err
}

// releaseUnclaimed lets go of what the old generation had and this one did not ask
// for, or asked for with another address: then what waits in the queue of the old
// one is accepted by its successor. The service on a Unix socket's path has ended.
func (m *Registry) releaseUnclaimed() {
	m.mu.Lock()
	unclaimed := m.inherited
	m.inherited = map[string]*inheritedSocket{}
	successors := map[string]*Listener{}
	for name, s := range unclaimed {
		if l, ok := m.sockets[name].(*Listener); ok && s.Type == typeListener && s.Opened {
			successors[name] = l
		}
	}
	m.mu.Unlock()
	for name, s := range unclaimed {
		if l := successors[name]; l != nil {
			if err := l.succeed(s); err != nil {
				m.log.Warn("mitosis: connections in the queue of a listener may be lost", "name", name, "error", err)
			}
		} else {
			sys.CloseDescriptor(s.descriptor)
		}
		if s.Path != nil {
			if err := unlink(s.Path); err != nil {
				m.log.Warn("mitosis: unlink", "name", name, "error", err)
			}
		}
		m.log.Warn("mitosis: inherited socket closed, nobody asked for it", "name", name, "type", s.Type, "network", s.Network, "address", s.Address)
	}
}

// isKilled says whether this is a generation inside a test that was given up.
func (m *Registry) isKilled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.killed
}
