package mitosis_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// failingSave is a state whose Save fails as it is told.
type failingSave struct{ save func() error }

func (s *failingSave) Save(io.Writer) error { return s.save() }
func (s *failingSave) Load(io.Reader) error { return nil }

func TestASaveThatFailsFailsTheSplitAndTheNextOneWorks(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	s := &failingSave{func() error { return broken }}
	m := mitosistest.New(t, quiet)
	require.NoError(t, m.State("s", s))
	require.NoError(t, m.Ready(t.Context()))
	next := func(m *mitosis.Registry) error {
		if err := m.State("s", &failingSave{}); err != nil {
			return err
		}
		return m.Ready(context.Background())
	}
	_, err := mitosistest.Split(t, m, next)
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, `state "s": save`)
	s.save = func() error { panic("out of cheese") }
	_, err = mitosistest.Split(t, m, next)
	require.ErrorContains(t, err, "panic: out of cheese")
	s.save = func() error { return nil }
	_, err = mitosistest.Split(t, m, next)
	require.NoError(t, err)
}
