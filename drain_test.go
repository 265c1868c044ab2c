package mitosis_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

func TestADrainedListenerLosesNothingThatWasInItsQueue(t *testing.T) {
	t.Parallel()
	m := mitosistest.New(t, quiet)
	l, err := m.Listen("web", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, m.Ready(t.Context()))
	ln := l.(*mitosis.Listener)
	const many = 50
	for range many {
		dial(t, ln)
	}
	drained := make(chan error, 1)
	go func() { drained <- ln.Drain(t.Context()) }()
	for range many {
		c, err := ln.Accept()
		require.NoError(t, err)
		defer c.Close()
	}
	require.NoError(t, <-drained)
	_, err = net.Dial("tcp", ln.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	accepting := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		accepting <- err
	}()
	require.NoError(t, ln.Close())
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	require.ErrorIs(t, ln.Close(), net.ErrClosed)
}

func TestADrainedListenerStillReturnsWhatAnOlderGenerationForwards(t *testing.T) {
	t.Parallel()
	m1, ln1, accepted, peer := listening(t)
	_, ln2 := splitListening(t, m1)
	require.ErrorIs(t, ln1.Drain(t.Context()), mitosis.ErrSuperseded)
	require.NoError(t, ln2.Drain(t.Context()))
	require.NoError(t, ln1.Forward(accepted, nil))
	_, err := io.WriteString(peer, "x")
	require.NoError(t, err)
	c, _, forwarded, err := ln2.AcceptForwarded()
	require.NoError(t, err)
	require.True(t, forwarded)
	b := make([]byte, 1)
	_, err = c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

// A program that fails to warm up may clean up as if it had served.
func TestAListenerIsNotDrainedBeforeItsGenerationIsReady(t *testing.T) {
	t.Parallel()
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		t.Run(network, func(t *testing.T) {
			m := mitosistest.New(t, quiet)
			l, err := m.Listen("web", network, address)
			require.NoError(t, err)
			require.ErrorIs(t, l.(*mitosis.Listener).Drain(t.Context()), mitosis.ErrNotReady)
			require.NoError(t, m.Ready(t.Context()))
			go echoAll(l)
			_, err = mitosistest.Split(t, m, func(m *mitosis.Registry) error {
				inherited, err := m.Listen("web", network, address)
				if err != nil {
					return err
				}
				return inherited.(*mitosis.Listener).Drain(context.Background())
			})
			require.ErrorContains(t, err, "not ready")
			requireEcho(t, dial(t, l))
		})
	}
}

func TestADrainedListenerIsNotHandedOver(t *testing.T) {
	t.Parallel()
	m, ln, _, _ := listening(t)
	require.NoError(t, ln.Drain(t.Context()))
	_, next := splitListening(t, m)
	require.NotEqual(t, ln.Addr(), next.Addr())
	dial(t, next)
}

func TestWhatWaitsAtAnAddressThatIsGivenUpIsAcceptedByItsSuccessor(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for network, addresses := range map[string][2]string{
		"tcp":  {"127.0.0.1:0", "localhost:0"},
		"unix": {filepath.Join(directory, "old"), filepath.Join(directory, "new")},
	} {
		t.Run(network, func(t *testing.T) {
			var l net.Listener
			program := func(address string) func(*mitosis.Registry) error {
				return func(m *mitosis.Registry) (err error) {
					if l, err = m.Listen("web", network, address); err != nil {
						return err
					}
					return m.Ready(context.Background())
				}
			}
			m := mitosistest.New(t, quiet)
			require.NoError(t, program(addresses[0])(m))
			old := l.Addr()
			const many = 20
			peers := make([]net.Conn, many)
			for i := range peers {
				peers[i] = dial(t, l)
			}
			_, err := mitosistest.Split(t, m, program(addresses[1]))
			require.NoError(t, err)
			require.NotEqual(t, old, l.Addr())
			go echoAll(l)
			for _, peer := range peers {
				requireEcho(t, peer)
			}
			_, err = net.Dial(network, old.String())
			require.Error(t, err)
		})
	}
}

// requireEcho requires that somebody answers.
func requireEcho(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err := io.WriteString(c, "?")
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
}

// echoAll returns what comes on each connection, until ln ends.
func echoAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}
