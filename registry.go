package mitosis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// The types of socket, as they appear on the link and in the log.
const (
	typeListener = "listener"
	typePacket   = "packet"
	typeFile     = "file"
)

var errUnsupported = errors.ErrUnsupported

// phase is where a process stands in the life of a generation.
type phase string

const (
	warming    phase = "warming"    // new: before Ready, the old one serves
	loading    phase = "loading"    // new: state and connections are arriving
	pledged    phase = "pledged"    // new: has all, waits for the commit
	serving    phase = "serving"    // owns everything
	waiting    phase = "waiting"    // old: the next one is warming up
	frozen     phase = "frozen"     // old: state and connections are leaving
	committing phase = "committing" // old: the commit is on its way
	draining   phase = "draining"   // old: superseded
	closed     phase = "closed"
)

// Registry keeps the named sockets and states of one generation of the program.
// There is one open registry in a process. All methods may be called concurrently.
type Registry struct {
	options    Options
	log        *slog.Logger
	generation int
	launch     launcher
	release    func() // lets the next Init of this process through

	mu        sync.Mutex
	changed   sync.Cond // phase
	phase     phase
	sockets   map[string]socket
	inherited map[string]*inheritedSocket // not asked for yet
	states    []namedState
	conns     map[string]*Conn
	arrived   map[string]*arrivedConn // from the old generation, not asked for yet
	readsShut bool                    // no Conn takes anything from its socket
	sealed    bool                    // the set of connections does not change
	deferred  []func()                // what waits for the end of a split, if it fails
	cancel    context.CancelCauseFunc
	killed    bool // an in-process child that its parent gave up

	predecessor *wire.Link // to the old process
	oldLives    atomic.Bool
	hello       wire.Greeting
	successor   *wire.Link // to the new process, after the commit

	done     chan struct{}
	over     chan struct{} // Close was called
	passedOn chan struct{} // after the commit: no signal will be passed on any more
	hearings sync.WaitGroup
	handing  sync.WaitGroup // connections on to the next generation; see forwardRest
	signals  *signals
	requests chan request // that came over the link from the old process
}

// socket is what the registry keeps under a name.
type socket interface {
	meta() *registration
	describe() wire.Socket
	duplicate() (int, error)
	freeze()
	awaitFrozen(context.Context) error
	open()          // also the thaw
	supersede()     // after the commit, in the old generation
	discard() error // close this process's part
}

// registration is what all sockets have in common.
type registration struct {
	registry         *Registry
	name             string
	network, address string // as the application asked for it
	path             *wire.PathIdentity
	opened           bool // by the registry, of whatever generation: nobody else has it
	inherited        bool
	removed          atomic.Bool // taken out with Remove
	gone             atomic.Bool // closed by the application
}

func (r *registration) meta() *registration { return r }

// inheritedSocket is a descriptor that nobody has asked for yet.
type inheritedSocket struct {
	wire.Socket
	descriptor int
}

// initialised is the registry of this process.
var initialised struct {
	sync.Mutex
	registry *Registry
}

// Init joins the chain of generations: in a process that a split has started it
// takes up what the old one handed over at the start, in any other it begins with
// generation 1. From here on split and stop signals are caught; see [Registry.Wait].
//
// It returns an error that matches ErrEnvironment if this is a new process whose
// environment was changed on the way or that has more rights than the old one
// (set-user-ID), ErrVersion or ErrProtocol if it does not
// understand the old one; the old process then serves on, and its Split returns
// the reason. Variables of a hand-over that lead nowhere (they were copied from
// another process, say) are ignored with a warning.
//
// There is one open registry in a process: a second Init fails until the first
// one's Close.
func Init(options Options) (*Registry, error) {
	initialised.Lock()
	defer initialised.Unlock()
	if initialised.registry != nil {
		return nil, errors.New("mitosis: init: this process has a registry already; Close it first")
	}
	in := inherited
	inherited = inheritance{}
	m, err := newRegistry(options, in, execLauncher{})
	if err != nil {
		return nil, fmt.Errorf("mitosis: init: %w", err)
	}
	m.release = func() {
		initialised.Lock()
		defer initialised.Unlock()
		initialised.registry = nil
	}
	initialised.registry = m
	return m, nil
}

func newRegistry(options Options, in inheritance, launch launcher) (*Registry, error) {
	if err := options.setDefaults(); err != nil {
		return nil, err
	}
	m := &Registry{
		options:    options,
		generation: 1,
		launch:     launch,
		release:    func() {},
		phase:      warming,
		sockets:    map[string]socket{},
		inherited:  map[string]*inheritedSocket{},
		conns:      map[string]*Conn{},
		arrived:    map[string]*arrivedConn{},
		done:       make(chan struct{}),
		over:       make(chan struct{}),
		passedOn:   make(chan struct{}),
		requests:   make(chan request, 8),
	}
	m.changed.L = &m.mu
	m.log = options.Logger.With("pid", os.Getpid(), "generation", 1)
	if in.warning != "" {
		m.log.Warn("mitosis: " + in.warning)
	}
	if in.child {
		if err := m.join(in); err != nil {
			return nil, err
		}
	} else if in.err != nil {
		return nil, in.err
	}
	m.signals = catchSignals(options.SplitSignals, options.StopSignals)
	return m, nil
}

// Generation returns the number of this process in the chain, from 1.
func (m *Registry) Generation() int { return m.generation }

// Done returns a channel that is closed when this generation's part is over: the
// next one has committed, or Close was called.
func (m *Registry) Done() <-chan struct{} { return m.done }

// Listen returns the listening socket of that name: the inherited one, if the old
// generation had the name with the same address, else a new one. An inherited
// ":0" keeps its port. Asking for another address opens that, and lets the old
// socket go at the commit; connections in its queue come from Accept of the new
// one. Networks are "tcp", "tcp4", "tcp6", "unix" and "unixpacket", addresses as for
// net.Listen.
//
// In every generation Accept waits until [Registry.Ready] has returned. While a
// split is under way Listen waits for its outcome. The error matches ErrNameTaken
// if this generation has the name already, ErrInvalidName, ErrSuperseded or
// ErrClosed.
func (m *Registry) Listen(name, network, address string) (net.Listener, error) {
	l, err := listen(m, name, typeListener, network, address, openListener, rebuildListener, streamListener.Addr, newListener)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// ListenPacket is [Registry.Listen] for packet sockets: networks are those of
// net.ListenPacket.
func (m *Registry) ListenPacket(name, network, address string) (net.PacketConn, error) {
	p, err := listen(m, name, typePacket, network, address, openPacketConn, rebuildPacketConn, packetConn.LocalAddr, newPacketConn)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Listener returns the listener of that name that this generation has inherited,
// whatever its address, or one that it has opened itself; otherwise the error
// matches ErrNotFound. It is the counterpart of AddListener in later generations.
func (m *Registry) Listener(name string) (net.Listener, error) {
	l, err := claimInherited(m, name, typeListener, rebuildListener, newListener)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// PacketConn is [Registry.Listener] for packet sockets.
func (m *Registry) PacketConn(name string) (net.PacketConn, error) {
	p, err := claimInherited(m, name, typePacket, rebuildPacketConn, newPacketConn)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// File returns the file of that name that this generation has inherited, or one
// that was given to AddFile; otherwise the error matches ErrNotFound. It is the
// same open file, offset included, as in the old generation, and the caller's to
// close; a closed file is not handed over.
func (m *Registry) File(name string) (*os.File, error) {
	rebuild := func(fd int) (*os.File, error) { return os.NewFile(uintptr(fd), m.inherited[name].Address), nil }
	f, err := claimInherited(m, name, typeFile, rebuild, newFile)
	if err != nil {
		return nil, err
	}
	return f.inner, nil
}

// AddListener puts a listener that the application opened itself under the
// registry's care, and returns the listener to use instead of it. Later
// generations get it from Listener, or from Listen with the address it had. The
// error matches ErrNotTransferable if ln has no descriptor, and those of Listen;
// ln is then still the caller's.
func (m *Registry) AddListener(name string, ln net.Listener) (net.Listener, error) {
	inner, err := transferableListener(ln)
	if err != nil {
		return nil, fmt.Errorf("mitosis: add listener %q: %w", name, err)
	}
	l, err := add(m, name, inner.Addr(), inner, newListener)
	if err != nil {
		return nil, fmt.Errorf("mitosis: add listener %q: %w", name, err)
	}
	return l, nil
}

// AddPacketConn is [Registry.AddListener] for packet sockets.
func (m *Registry) AddPacketConn(name string, pc net.PacketConn) (net.PacketConn, error) {
	inner, err := transferablePacketConn(pc)
	if err != nil {
		return nil, fmt.Errorf("mitosis: add packet conn %q: %w", name, err)
	}
	p, err := add(m, name, inner.LocalAddr(), inner, newPacketConn)
	if err != nil {
		return nil, fmt.Errorf("mitosis: add packet conn %q: %w", name, err)
	}
	return p, nil
}

// AddFile makes f known under a name, so that later generations get it from File.
// f stays the caller's to use and to close; once closed it is not handed over. The
// errors are those of Listen, and os.ErrClosed.
func (m *Registry) AddFile(name string, f *os.File) error {
	if f == nil {
		return fmt.Errorf("mitosis: add file %q: %w", name, os.ErrInvalid)
	}
	fd, err := duplicateFile(f) // shows now what would fail at the split
	if err == nil {
		sys.CloseDescriptor(fd)
	} else if !errors.Is(err, errUnsupported) {
		return fmt.Errorf("mitosis: add file %q: %w", name, err)
	}
	if _, err := add(m, name, fileAddr(f.Name()), f, newFile); err != nil {
		return fmt.Errorf("mitosis: add file %q: %w", name, err)
	}
	return nil
}

// Remove takes a socket or connection out of the registry: it stays open, and this
// process alone has it. A connection from the old generation that nobody has asked
// for is closed. The error matches ErrNotFound if there is none of that name. While
// a split is under way Remove waits for its outcome.
func (m *Registry) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.awaitNoSplit(); err != nil {
		return fmt.Errorf("mitosis: remove %q: %w", name, err)
	}
	if s, ok := m.sockets[name]; ok {
		delete(m.sockets, name)
		s.meta().removed.Store(true)
		s.open()
		return nil
	}
	if c, ok := m.conns[name]; ok {
		delete(m.conns, name)
		c.removed.Store(true)
		return nil
	}
	if a, ok := m.arrived[name]; ok {
		delete(m.arrived, name)
		return sys.CloseDescriptor(a.descriptor)
	}
	if _, ok := m.inherited[name]; ok {
		return nil // the commit closes what nobody asked for
	}
	return fmt.Errorf("mitosis: remove %q: %w", name, ErrNotFound)
}

// awaitNoSplit waits while a split is under way: what is added or removed then
// would be in one generation and not in the other.
func (m *Registry) awaitNoSplit() error {
	for {
		switch m.phase {
		case waiting, frozen, committing:
			m.changed.Wait()
		case draining:
			return ErrSuperseded
		case closed:
			return ErrClosed
		default:
			return nil
		}
	}
}

// setPhase moves on, with m.mu held, and returns where it was.
func (m *Registry) setPhase(p phase) phase {
	was := m.phase
	m.phase = p
	m.changed.Broadcast()
	return was
}

// sorted returns the sockets in the order of their names, with m.mu held.
func (m *Registry) sorted() []socket {
	list := make([]socket, 0, len(m.sockets))
	for _, s := range m.sockets {
		list = append(list, s)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].meta().name < list[j].meta().name })
	return list
}

func absolutePath(path string) (string, error) { return filepath.Abs(path) }
