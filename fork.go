package mitosis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// settleTimeout bounds the wait for the new process's PID file, after the commit.
const settleTimeout = 2 * time.Second

// exitTimeout is how long a process may take to end when its end of the link is
// closed. Tests shorten it.
var exitTimeout = 2 * time.Second

// openPipe opens the pipes of states and of the token. Tests let it fail.
var openPipe = os.Pipe

// split is one attempt, seen from the old generation.
type split struct {
	m      *Registry
	child  process
	link   *wire.Link
	frames <-chan received
	quit   chan struct{} // ends the pump
	exited chan struct{} // the child has been reaped
	status string

	frozen      bool // the application has to be thawed
	phase       string
	began, last time.Time
	times       []any // for the log: phase, duration, ...
}

// Split starts the next generation and hands over to it. It returns nil when the
// next generation has committed: it owns every socket and the state, this one is
// superseded, and Wait and Done say so. On any error the new process is dead and
// reaped, and this generation serves on with everything that it had; the next Split
// can succeed.
//
// The program is started anew by the path by which this process was started, in
// the directory it was started in, with args, or with this process's own arguments
// if there are none. Split returns an error that matches ErrNotReady before Ready,
// ErrSplitting while another Split is under way, ErrSuperseded, ErrClosed,
// ErrChildExited (see [ExitError]), ErrTimeout (see [TimeoutError]), ErrRefused
// (see [RefusedError]), ErrVersion, ErrProtocol, ErrTruncated, or what ended ctx; if the program cannot
// be started, the system's error. On systems without descriptor passing it matches
// errors.ErrUnsupported.
func (m *Registry) Split(ctx context.Context, args ...string) error {
	if !sys.Supported {
		return fmt.Errorf("mitosis: split: %w", errUnsupported)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := m.beginSplit(cancel); err != nil {
		return fmt.Errorf("mitosis: split: %w", err)
	}
	s := &split{m: m, quit: make(chan struct{}), exited: make(chan struct{}), began: time.Now(), last: time.Now()}
	err := s.run(ctx, args)
	if err != nil {
		err = fmt.Errorf("mitosis: split: %w", s.abort(err))
		m.log.Warn("mitosis: split failed", append(s.times, "phase", s.phase, "total", time.Since(s.began), "error", err)...)
	} else {
		m.log.Info("mitosis: superseded", append(s.times, "child", s.child.Pid(), "total", time.Since(s.began))...)
	}
	return err
}

// run is the life of a split, from the top to the bottom.
func (s *split) run(ctx context.Context, args []string) error {
	m := s.m

	s.enter("start")
	hello, err := s.start(args)
	if err != nil {
		return err
	}
	step(stepOldStarted)
	ctx, stop := s.untilExit(ctx)
	defer stop()

	s.enter("warm-up")
	limit, cancel := s.limit(ctx, m.options.ReadyTimeout)
	defer cancel()
	if err := s.introduce(limit, hello); err != nil {
		return err
	}
	step(stepOldJoined)
	var want wire.Wanting
	if err := s.await(limit, wire.Want, &want); err != nil {
		return err
	}

	step(stepOldWanted)
	s.enter("freeze")
	limit, cancel = s.limit(ctx, m.options.FreezeTimeout)
	defer cancel()
	m.move(frozen)
	s.frozen = true
	if err := m.freeze(limit); errors.Is(err, errChildGone) {
		return s.lastWords(err, wire.Refuse, nil) // it may have said why
	} else if err != nil {
		return err
	}

	step(stepOldFrozen)
	s.enter("transfer")
	limit, cancel = s.limit(ctx, m.options.StateTimeout)
	defer cancel()
	if err := s.transfer(limit, want); err != nil {
		return err
	}
	step(stepOldCompleted)
	if err := s.await(limit, wire.Ready, nil); err != nil {
		return err
	}

	step(stepOldReady)
	s.enter("commit")
	m.move(committing)
	if err := s.commit(ctx); err != nil {
		return err
	}

	step(stepOldAcked)
	s.enter("settle")
	m.supersede(s)
	limit, cancel = context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	s.await(limit, wire.Settled, nil) // the new process serves already; its PID file is worth a short wait
	go s.drain()
	s.enter("")
	return nil
}

// beginSplit makes this the one split that is under way.
func (m *Registry) beginSplit(cancel context.CancelCauseFunc) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.phase {
	case warming, loading, pledged:
		return ErrNotReady
	case waiting, frozen, committing:
		return ErrSplitting
	case draining:
		return ErrSuperseded
	case closed:
		return ErrClosed
	}
	m.cancel = cancel
	m.setPhase(waiting)
	return nil
}

func (m *Registry) move(p phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setPhase(p)
}

// enter begins a phase and notes how long the one before took.
func (s *split) enter(phase string) {
	now := time.Now()
	if s.phase != "" {
		s.times = append(s.times, s.phase, now.Sub(s.last))
	}
	s.last = now
	if phase != "" {
		s.phase = phase
		s.m.log.Debug("mitosis: split", "phase", phase)
	}
}

// limit bounds the present phase.
func (s *split) limit(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, &TimeoutError{Phase: s.phase, Limit: d})
}

// start starts the new process. The greeting is on the link before the process is.
func (s *split) start(args []string) (*inheritanceList, error) {
	m := s.m
	c, err := m.command(args)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := sys.Pair()
	if err != nil {
		return nil, fmt.Errorf("control link: %w", err)
	}
	s.link = wire.NewLink(ours)
	descriptors := []int{theirs}
	defer func() {
		for _, fd := range descriptors {
			sys.CloseDescriptor(fd)
		}
	}()
	env := environment{link: m.launch.number(0, theirs)}
	rand.Read(env.nonce[:])
	list := &inheritanceList{}
	m.mu.Lock()
	sockets := m.sorted()
	m.mu.Unlock()
	for _, socket := range sockets {
		fd, err := socket.duplicate()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
			continue // closed since
		}
		if err != nil {
			return nil, fmt.Errorf("socket %q: %w", socket.meta().name, err)
		}
		described := socket.describe()
		described.Descriptor = m.launch.number(len(descriptors), fd)
		descriptors = append(descriptors, fd)
		env.sockets = append(env.sockets, namedDescriptor{described.Name, described.Descriptor})
		list.sockets = append(list.sockets, described)
	}
	variables := env.variables()
	greeting := wire.Greeting{
		MinVersion: wire.MinVersion,
		MaxVersion: wire.MaxVersion,
		Pid:        uint32(os.Getpid()),
		Generation: uint64(m.generation),
		Nonce:      env.nonce,
		Digest:     digest(variables),
	}
	if err := s.link.Send(greeting.Frame()); err != nil {
		return nil, err
	}
	c.ownVariables, c.greeting = variables, greeting
	step(stepOldStart)
	s.child, err = m.launch.start(c, descriptors)
	if err != nil {
		return nil, err
	}
	m.log.Info("mitosis: new process started", "child", s.child.Pid(), "path", c.Path, "sockets", len(list.sockets))
	s.frames = pump(s.link, s.quit)
	go func() {
		s.status = s.child.Wait()
		close(s.exited)
	}()
	return list, nil
}

// inheritanceList is what the new process inherits by exec.
type inheritanceList struct{ sockets []wire.Socket }

// untilExit returns a context that ends when the child does.
func (s *split) untilExit(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-s.exited:
			cancel(errChildGone)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// introduce tells the new process what it has inherited, and waits for its answer.
func (s *split) introduce(ctx context.Context, list *inheritanceList) error {
	const perFrame = 500
	stop := s.boundSends(ctx)
	defer stop()
	rest := list.sockets
	for last := false; !last; {
		n := min(len(rest), perFrame)
		last = n == len(rest)
		frame, err := wire.Message(wire.Sockets, wire.Inheritance{Sockets: rest[:n], Last: last})
		if err != nil {
			return err
		}
		if err := s.send(ctx, frame); err != nil {
			return err
		}
		rest = rest[n:]
	}
	var joining wire.Joining
	if err := s.await(ctx, wire.Join, &joining); err != nil {
		return err
	}
	if joining.Version < wire.MinVersion || joining.Version > wire.MaxVersion {
		return fmt.Errorf("%w: the new process chose version %d", ErrVersion, joining.Version)
	}
	if joining.Pid != s.child.Pid() {
		return fmt.Errorf("%w: process %d was started, but %d answers; a wrapper has to exec the program", ErrProtocol, s.child.Pid(), joining.Pid)
	}
	return nil
}

// transfer sends what moves at the cut.
func (s *split) transfer(ctx context.Context, want wire.Wanting) error {
	stop := s.boundSends(ctx)
	defer stop()
	known := map[string]bool{}
	for _, name := range want.States {
		state := s.m.findState(name)
		if state == nil || known[name] {
			continue
		}
		known[name] = true
		if err := s.save(ctx, name, state); err != nil {
			return fmt.Errorf("state %q: %w", name, err)
		}
	}
	for _, state := range s.m.states {
		if !known[state.name] {
			s.m.log.Warn("mitosis: state dropped, the new generation does not know it", "name", state.name)
		}
	}
	conns, err := s.sendConns(ctx)
	if err != nil {
		return err
	}
	frame, err := wire.Message(wire.Complete, wire.Completion{States: len(known), Conns: conns})
	if err != nil {
		return err
	}
	return s.send(ctx, frame)
}

// save writes one state into a pipe of its own while the new process reads it.
func (s *split) save(ctx context.Context, name string, state State) error {
	began := time.Now()
	r, w, err := openPipe()
	if err != nil {
		return err
	}
	defer w.Close()
	sys.GrowPipe(w)
	if err := s.sendWithFile(ctx, wire.State, wire.StateName{Name: name}, r); err != nil {
		return err
	}
	step(stepOldSaving)
	counter := &countingWriter{w: w}
	saved := make(chan error, 1)
	go func() { saved <- guard("save", func() error { return state.Save(counter) }) }()
	select {
	case err = <-saved:
	case <-ctx.Done():
		// Save is still looking at the application's memory: only when it has
		// returned may the application go on.
		w.Close()
		select {
		case <-saved:
		case <-time.After(s.m.options.FreezeTimeout):
			s.m.log.Error("mitosis: Save does not return", "name", name)
		}
		return s.ended(ctx)
	}
	if errors.Is(err, syscall.EPIPE) {
		return s.lastWords(err, wire.Refuse, nil)
	}
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	s.m.log.Debug("mitosis: state saved", "name", name, "bytes", counter.n, "duration", time.Since(began))
	frame, err := wire.Message(wire.StateEnd, wire.StateName{Name: name, Bytes: counter.n})
	if err == nil {
		err = s.send(ctx, frame)
	}
	step(stepOldSaved)
	return err
}

// sendWithFile sends a frame with f, which it closes.
func (s *split) sendWithFile(ctx context.Context, kind wire.Kind, v any, f *os.File) error {
	defer f.Close()
	fd, err := sys.Duplicate(f)
	if err != nil {
		return err
	}
	defer sys.CloseDescriptor(fd)
	frame, err := wire.Message(kind, v, fd)
	if err != nil {
		return err
	}
	return s.send(ctx, frame)
}
