// Package mitosistest lets both sides of a split run in one process, so that a
// program can test its own Save, Load and Listen code in a millisecond, without
// starting processes. The control link, the descriptors and the pipes between the
// two generations are real; only exec is not: memory is shared, so a test should
// give each generation variables of its own.
package mitosistest

import (
	"context"
	"testing"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/internal/inprocess"
)

// New returns a registry of generation 1. It catches no signals, reads no
// environment, and is not the one registry of the process, so that many tests can
// have one at the same time. It is closed when the test ends. The application's
// code uses it as it would use what mitosis.Init returns.
func New(t testing.TB, options mitosis.Options) *mitosis.Registry {
	t.Helper()
	m, err := inprocess.New(options)
	if err != nil {
		t.Fatalf("mitosistest: %v", err)
	}
	registry := m.(*mitosis.Registry)
	t.Cleanup(func() { registry.Close() })
	return registry
}

// Split hands m over to a new generation, whose program is next: it gets what
// mitosis.Init returns there, and declares its sockets and states and calls Ready
// just as the real program does. If next returns before Ready has, with nil or an
// error, that is a new process that exits.
//
// On success Split returns the new generation's registry, which is closed when the
// test ends, together with what next returned. Otherwise it returns the error of
// m.Split, and m goes on as if nothing had been.
func Split(t testing.TB, m *mitosis.Registry, next func(*mitosis.Registry) error) (*mitosis.Registry, error) {
	t.Helper()
	return SplitContext(t.Context(), t, m, next)
}

// SplitContext is [Split] with the context that m.Split gets.
func SplitContext(ctx context.Context, t testing.TB, m *mitosis.Registry, next func(*mitosis.Registry) error) (*mitosis.Registry, error) {
	t.Helper()
	successor, err := inprocess.Split(ctx, m, func(r any) error { return next(r.(*mitosis.Registry)) })
	registry, _ := successor.(*mitosis.Registry)
	if registry == nil {
		return nil, err
	}
	t.Cleanup(func() { registry.Close() })
	return registry, err
}
