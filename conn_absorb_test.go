package mitosis_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// whenFreezing is a state whose Freeze waits: by then writes end at once, and they
// are not held back yet.
type whenFreezing struct {
	mitosis.State
	wait <-chan error
}

func (s whenFreezing) Freeze() { <-s.wait }
func (s whenFreezing) Thaw()   {}

// splitWhen hands m over, with wait between the beginning of the cut and its seal.
// The next generation waits for next at the same place.
func splitWhen(t *testing.T, m *mitosis.Registry, next <-chan error) *mitosis.Registry {
	t.Helper()
	n := 0
	m, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error {
		if err := m.State("s", whenFreezing{mitosis.Gob(&n), next}); err != nil {
			return err
		}
		return m.Ready(context.Background())
	})
	require.NoError(t, err)
	return m
}

func TestCloseWriteAtTheBeginningOfACutComesAfterWhatWasWritten(t *testing.T) {
	t.Parallel()
	n, closed := 0, make(chan error, 1)
	m := mitosistest.New(t, quiet)
	require.NoError(t, m.State("s", whenFreezing{mitosis.Gob(&n), closed}))
	require.NoError(t, m.Ready(t.Context()))
	c, peer := connect(t, m, "c", "tcp")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() {
		_, err := c.Write(big) // until the cut begins
		if err == nil {
			err = c.CloseWrite()
		}
		closed <- err
		close(closed)
	}()
	_, err := io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)
	none := make(chan error)
	close(none)
	m = splitWhen(t, m, none)
	_, err = m.Conn("c")
	require.NoError(t, err)
	rest, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.True(t, bytes.Equal(big[1:], rest))
}

func TestAWriteBehindWhatAnEarlierGenerationLeftHoldsUpNoSplit(t *testing.T) {
	t.Parallel()
	n := 0
	none, written := make(chan error), make(chan error, 1)
	close(none)
	m := mitosistest.New(t, quiet)
	require.NoError(t, m.State("s", whenFreezing{mitosis.Gob(&n), none}))
	require.NoError(t, m.Ready(t.Context()))
	c, peer := connect(t, m, "c", "tcp")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go c.Write(big)
	_, err := io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)

	m = splitWhen(t, m, written)
	next, err := m.Conn("c")
	require.NoError(t, err)
	go func() {
		_, err := io.WriteString(next, "the end")
		written <- err
		close(written)
	}()
	m = splitWhen(t, m, none)
	last, err := m.Conn("c")
	require.NoError(t, err)
	require.NoError(t, last.CloseWrite())
	rest, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(big[1:], "the end"...), rest))
}
