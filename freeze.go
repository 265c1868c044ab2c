package mitosis

import (
	"context"
	"fmt"
)

// freeze brings the application to rest, in an order that leaves nobody waiting
// for another: first nothing more comes in, and what came in is dealt with, for
// which the application may still write; then the states that want to know are
// told; then nothing more goes out. It returns an error that names who did not
// come to rest before ctx ended.
func (m *Registry) freeze(ctx context.Context) error {
	m.mu.Lock()
	sockets := m.sorted()
	m.mu.Unlock()
	for _, s := range sockets {
		s.freeze()
	}
	if err := m.freezeConns(ctx); err != nil {
		return err
	}
	for _, s := range sockets {
		if err := s.awaitFrozen(ctx); err != nil {
			return fmt.Errorf("%s %q does not come to rest: %w", s.describe().Type, s.meta().name, err)
		}
	}
	if err := m.freezeStates(ctx); err != nil {
		return err
	}
	return m.sealConns(ctx)
}

// freezeStates tells the states that want to know.
func (m *Registry) freezeStates(ctx context.Context) error {
	for i, s := range m.states {
		f, ok := s.state.(Freezer)
		if !ok {
			continue
		}
		done := make(chan error, 1)
		go func() {
			done <- guard("freeze", func() error { f.Freeze(); return nil })
		}()
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("state %q: %w", s.name, err)
			}
			m.states[i].frozen = true
		case <-ctx.Done():
			go func() { // it comes too late, and is undone then
				if <-done == nil {
					f.Thaw()
				}
			}()
			return fmt.Errorf("state %q does not come to rest: %w", s.name, context.Cause(ctx))
		}
	}
	return nil
}

// thaw undoes freeze, or what has been done of it.
func (m *Registry) thaw() {
	m.thawStates()
	m.mu.Lock()
	sockets := m.sorted()
	m.mu.Unlock()
	for _, s := range sockets {
		s.open()
	}
	m.thawConns()
}

func (m *Registry) thawStates() {
	for i := range m.states {
		if s := &m.states[i]; s.frozen {
			s.frozen = false
			if err := guard("thaw", func() error { s.state.(Freezer).Thaw(); return nil }); err != nil {
				m.log.Error("mitosis: thaw", "state", s.name, "error", err)
			}
		}
	}
}
