package mitosis

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// transferable is an inner socket that can be closed.
type transferable interface{ Close() error }

// listen inherits the socket of that name, or opens it.
func listen[Inner transferable, Outer socket](
	m *Registry, name, kind, network, address string,
	open func(*net.ListenConfig, string, string) (Inner, error),
	rebuild func(int) (Inner, error),
	bound func(Inner) net.Addr,
	wrap func(*registration, Inner) Outer,
) (Outer, error) {
	var none Outer
	outer, err := func() (Outer, error) {
		if err := m.lockForChange(name); err != nil {
			return none, err
		}
		defer m.mu.Unlock()
		r := &registration{registry: m, name: name, network: network, address: address}
		if old, ok := m.inherited[name]; ok && old.Type == kind {
			inner, err := rebuildDuplicate(old.descriptor, rebuild)
			if err != nil {
				return none, fmt.Errorf("rebuild from descriptor %d: %w", old.descriptor, err)
			}
			if sameAddress(network, address, old.Socket, bound(inner)) {
				r.inherited, r.path, r.opened = true, old.Path, old.Opened
				outer := wrap(r, inner)
				m.claim(name, outer)
				return outer, nil
			}
			inner.Close()
		}
		inner, err := open(&m.options.ListenConfig, network, address)
		if err != nil {
			return none, err
		}
		r.path, r.opened = pathIdentity(bound(inner)), true
		outer := wrap(r, inner)
		m.register(name, outer)
		return outer, nil
	}()
	if err != nil {
		return none, fmt.Errorf("mitosis: listen %q: %w", name, err)
	}
	return outer, nil
}

// rebuildDuplicate leaves the inherited descriptor alone until it is claimed.
func rebuildDuplicate[Inner any](fd int, rebuild func(int) (Inner, error)) (Inner, error) {
	dup, err := sys.DuplicateDescriptor(fd)
	if err != nil {
		var none Inner
		return none, err
	}
	return rebuild(dup)
}

// claimInherited returns the socket of that name, without a look at its address.
func claimInherited[Inner any, Outer socket](m *Registry, name, kind string,
	rebuild func(int) (Inner, error), wrap func(*registration, Inner) Outer,
) (Outer, error) {
	var none Outer
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.sockets[name]; ok {
		if outer, ok := s.(Outer); ok {
			return outer, nil
		}
		return none, fmt.Errorf("mitosis: %s %q: %w: the name is that of a %s", kind, name, ErrNotFound, s.describe().Type)
	}
	old, ok := m.inherited[name]
	switch {
	case !ok:
		return none, fmt.Errorf("mitosis: %s %q: %w", kind, name, ErrNotFound)
	case old.Type != kind:
		return none, fmt.Errorf("mitosis: %s %q: %w: the name is that of a %s", kind, name, ErrNotFound, old.Type)
	}
	r := &registration{registry: m, name: name, network: old.Network, address: old.Address, path: old.Path, opened: old.Opened, inherited: true}
	inner, err := rebuildDuplicate(old.descriptor, rebuild)
	if err != nil {
		return none, fmt.Errorf("mitosis: %s %q: rebuild from descriptor %d: %w", kind, name, old.descriptor, err)
	}
	outer := wrap(r, inner)
	m.claim(name, outer)
	return outer, nil
}

func add[Inner any, Outer socket](m *Registry, name string, addr net.Addr, inner Inner, wrap func(*registration, Inner) Outer) (Outer, error) {
	var none Outer
	if c, ok := any(inner).(interface{ SetDeadline(time.Time) error }); ok {
		if err := c.SetDeadline(time.Time{}); errors.Is(err, net.ErrClosed) {
			return none, err
		}
	}
	if err := m.lockForChange(name); err != nil {
		return none, err
	}
	defer m.mu.Unlock()
	r := &registration{registry: m, name: name, network: addr.Network(), address: addr.String(), path: pathIdentity(addr)}
	outer := wrap(r, inner)
	m.register(name, outer)
	return outer, nil
}

// lockForChange locks the registry if a socket of that name may be added now.
func (m *Registry) lockForChange(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	err := m.awaitNoSplit()
	_, socket := m.sockets[name]
	_, conn := m.conns[name]
	_, arrived := m.arrived[name]
	if err == nil && (socket || conn || arrived) {
		err = ErrNameTaken
	}
	if err != nil {
		m.mu.Unlock()
	}
	return err
}

// claim makes an inherited socket this generation's.
func (m *Registry) claim(name string, s socket) {
	sys.CloseDescriptor(m.inherited[name].descriptor)
	delete(m.inherited, name)
	m.log.Debug("mitosis: socket inherited", "name", name, "type", s.describe().Type)
	m.register(name, s)
}

func (m *Registry) register(name string, s socket) {
	m.sockets[name] = s
	if m.phase == serving {
		s.open()
	}
}

// checkName refuses what would be unreadable in a log or an error.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidName)
	case len(name) > 255:
		return fmt.Errorf("%w: %.32q... has %d bytes, the limit is 255", ErrInvalidName, name, len(name))
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: %q", ErrInvalidName, name)
	}
	return nil
}
