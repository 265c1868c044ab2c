package mitosis_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
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

// recorder is a state that notes the order of its calls.
type recorder struct {
	name  string
	calls *[]string
}

func (r recorder) Save(w io.Writer) error {
	*r.calls = append(*r.calls, "save "+r.name)
	_, err := io.WriteString(w, r.name)
	return err
}

func (r recorder) Load(io.Reader) error { // and leaves what there is unread
	*r.calls = append(*r.calls, "load "+r.name)
	return nil
}

func TestStatesTravelInTheOrderOfTheNewGeneration(t *testing.T) {
	t.Parallel()
	var saved, loaded []string
	declare := func(m *mitosis.Registry, calls *[]string, names ...string) error {
		for _, name := range names {
			if err := m.State(name, recorder{name, calls}); err != nil {
				return err
			}
		}
		return m.Ready(context.Background())
	}
	m := mitosistest.New(t, quiet)
	require.NoError(t, declare(m, &saved, "a", "b", "c", "dropped"))
	_, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error { return declare(m, &loaded, "c", "new", "a", "b") })
	require.NoError(t, err)
	require.Equal(t, []string{"save c", "save a", "save b"}, saved)
	require.Equal(t, []string{"load c", "load a", "load b"}, loaded)
}

func TestEveryKindOfStateArrivesAndNothingOfItIsLogged(t *testing.T) {
	t.Parallel()
	type memory struct {
		Secret string
		Seen   map[string]int
	}
	const secret = "do-not-log-me"
	type variables struct {
		gob, json, kept memory
		bytes           []byte
		mu              sync.Mutex
	}
	declare := func(m *mitosis.Registry, v *variables) error {
		return errors.Join(
			m.State("gob", mitosis.Gob(&v.gob)),
			m.State("json", mitosis.Locked(&v.mu, mitosis.JSON(&v.json))),
			m.State("bytes", mitosis.Bytes(&v.bytes)),
		)
	}
	var log syncBuffer
	options := mitosis.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	big := make([]byte, 64<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	first := &variables{gob: memory{secret, map[string]int{"a": 1}}, json: memory{secret, map[string]int{"b": 2}}, bytes: big}
	m := mitosistest.New(t, options)
	require.NoError(t, declare(m, first))
	require.NoError(t, m.Ready(t.Context()))
	second := &variables{kept: memory{Secret: "kept"}}
	_, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error {
		if err := errors.Join(declare(m, second), m.State("of this generation only", mitosis.Gob(&second.kept))); err != nil {
			return err
		}
		return m.Ready(context.Background())
	})
	require.NoError(t, err)
	require.Equal(t, first.gob, second.gob)
	require.Equal(t, first.json, second.json)
	require.True(t, bytes.Equal(big, second.bytes))
	require.Equal(t, "kept", second.kept.Secret)
	require.NoError(t, m.Close())
	require.NotContains(t, log.String(), secret)
	for _, phase := range []string{"start", "warm-up", "freeze", "transfer", "commit"} {
		require.Contains(t, log.String(), "phase="+phase)
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
