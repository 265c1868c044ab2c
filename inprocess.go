package mitosis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/bhuthesh/mitosis/internal/inprocess"
	"github.com/bhuthesh/mitosis/internal/sys"
)

func init() {
	inprocess.New = func(options any) (any, error) {
		return newInProcess(options.(Options), inheritance{})
	}
	inprocess.Split = func(ctx context.Context, old any, next func(any) error) (any, error) {
		return splitInProcess(ctx, old.(*Registry), func(m *Registry) error { return next(m) })
	}
}

func newInProcess(options Options, in inheritance) (*Registry, error) {
	options.SplitSignals, options.StopSignals = []os.Signal{}, []os.Signal{}
	return newRegistry(options, in, noLauncher{})
}

// splitInProcess is Split with next in the part of the new process.
func splitInProcess(ctx context.Context, m *Registry, next func(*Registry) error) (*Registry, error) {
	l := &inProcessLauncher{options: m.options, next: next}
	m.mu.Lock()
	m.launch = l
	m.mu.Unlock()
	err := m.Split(ctx)
	if l.child == nil {
		for _, fd := range l.descriptors {
			sys.CloseDescriptor(fd)
		}
	}
	if err != nil {
		return nil, err
	}
	<-l.child.returned
	return l.child.registry, l.child.err
}

// noLauncher is the launcher of a generation for which nobody has said what comes next.
type noLauncher struct{}

func (noLauncher) number(int, int) int { return firstDescriptor }

func (noLauncher) start(*Command, []int) (process, error) {
	return nil, errors.New("a registry of mitosistest is split with mitosistest.Split")
}

// inProcessLauncher runs the next generation in a goroutine of this process, over
// a control link and descriptors of its own.
type inProcessLauncher struct {
	options     Options
	next        func(*Registry) error
	descriptors []int
	child       *inProcess
}

// number gives the new generation a duplicate: the numbers are those of this process.
func (l *inProcessLauncher) number(_, descriptor int) int {
	fd, err := sys.DuplicateDescriptor(descriptor)
	if err != nil {
		return -1
	}
	l.descriptors = append(l.descriptors, fd)
	return fd
}

func (l *inProcessLauncher) start(c *Command, _ []int) (process, error) {
	env, err := parseVariables(c.ownVariables)
	if err != nil {
		return nil, err
	}
	l.child = &inProcess{ended: make(chan struct{}), returned: make(chan struct{}), status: "exit status 0"}
	go l.child.run(l.options, inheritance{child: true, link: env.link, hello: c.greeting, sockets: env.sockets}, l.next)
	return l.child, nil
}

// inProcess is a new generation in this process.
type inProcess struct {
	mu       sync.Mutex
	registry *Registry
	killed   bool
	status   string
	err      error

	ended    chan struct{} // it is as good as dead
	end      sync.Once
	returned chan struct{} // next has returned
}

func (p *inProcess) run(options Options, in inheritance, next func(*Registry) error) {
	defer close(p.returned)
	m, err := newInProcess(options, in)
	if err != nil {
		p.finish("exit status 1", err)
		return
	}
	p.mu.Lock()
	p.registry = m
	killed := p.killed
	p.mu.Unlock()
	if killed {
		m.die()
		return
	}
	err = guard("the next generation", func() error { return next(m) })
	m.mu.Lock()
	committed := m.phase == serving || m.successor != nil
	m.mu.Unlock()
	switch {
	case committed:
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		go func() { <-m.over; p.finish("exit status 0", nil) }()
	case err != nil:
		m.die()
		p.finish("exit status 1", err)
	default:
		m.die()
		p.finish("exit status 0", nil)
	}
}

func (p *inProcess) finish(status string, err error) {
	p.end.Do(func() {
		p.mu.Lock()
		p.status, p.err = status, err
		p.mu.Unlock()
		close(p.ended)
	})
}

func (p *inProcess) Pid() int { return os.Getpid() }

// Kill makes sure that the generation can take nothing any more. Its code cannot
// be stopped, but its registry is dead.
func (p *inProcess) Kill() error {
	p.mu.Lock()
	p.killed = true
	m := p.registry
	p.mu.Unlock()
	if m != nil {
		m.die()
	}
	p.finish("signal: killed", nil)
	return nil
}

func (p *inProcess) Wait() string {
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Sprintf("%s: %v", p.status, p.err)
	}
	return p.status
}

// die is what the end of a process does to its registry.
func (m *Registry) die() {
	m.mu.Lock()
	m.killed = true
	m.mu.Unlock()
	m.Close()
}
