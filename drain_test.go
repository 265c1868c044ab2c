package mitosis_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
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
		peer, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer peer.Close()
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
			c, err := net.Dial(network, l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, "?")
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 1))
			require.NoError(t, err)
		})
	}
}

func TestADrainedListenerIsNotHandedOver(t *testing.T) {
	t.Parallel()
	m, ln, _, _ := listening(t)
	require.NoError(t, ln.Drain(t.Context()))
	_, next := splitListening(t, m)
	require.NotEqual(t, ln.Addr(), next.Addr())
	c, err := net.Dial("tcp", next.Addr().String())
	require.NoError(t, err)
	c.Close()
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
				var err error
				peers[i], err = net.Dial(network, old.String())
				require.NoError(t, err)
				defer peers[i].Close()
			}
			_, err := mitosistest.Split(t, m, program(addresses[1]))
			require.NoError(t, err)
			require.NotEqual(t, old, l.Addr())
			go echoAll(l)
			for _, peer := range peers {
				require.NoError(t, peer.SetDeadline(time.Now().Add(20*time.Second)))
				_, err := io.WriteString(peer, "?")
				require.NoError(t, err)
				_, err = io.ReadFull(peer, make([]byte, 1))
				require.NoError(t, err)
			}
			_, err = net.Dial(network, old.String())
			require.Error(t, err)
		})
	}
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

// dialUntilRefused dials for one question after the other until no connection is
// made, and fails if one is made and the question not answered.
func dialUntilRefused(a net.Addr, asked chan<- struct{}) error {
	for n := 1; ; n++ {
		c, err := net.Dial(a.Network(), a.String())
		if err != nil {
			return nil
		}
		b := []byte("?")
		if _, err = c.Write(b); err == nil {
			_, err = io.ReadFull(c, b)
		}
		c.Close()
		if err != nil {
			return fmt.Errorf("question %d: %w", n, err)
		}
		select {
		case asked <- struct{}{}:
		default:
		}
	}
}

func TestNoConnectionIsMadeAndDroppedWhileAListenerDrains(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems cannot refuse connections before the socket is closed; docs/guarantees.md names the gap")
	}
	t.Parallel()
	plain := mitosis.Options{Logger: quiet.Logger}
	plain.ListenConfig.SetMultipathTCP(false)
	for name, test := range map[string]struct {
		options          mitosis.Options
		network, address string
	}{
		"TCP":            {quiet, "tcp", "127.0.0.1:0"},
		"TCP, not MPTCP": {plain, "tcp", "127.0.0.1:0"},
		"TCP, IPv6":      {quiet, "tcp", "[::1]:0"},
		"Unix":           {quiet, "unix", filepath.Join(t.TempDir(), "socket")},
		"Unix, abstract": {quiet, "unix", "@mitosis drain " + t.TempDir()},
	} {
		for _, generation := range []int{1, 2} {
			t.Run(fmt.Sprint(name, ", generation ", generation), func(t *testing.T) {
				for range 10 {
					var l net.Listener
					program := func(m *mitosis.Registry) (err error) {
						if l, err = m.Listen("web", test.network, test.address); err != nil {
							return err
						}
						return m.Ready(context.Background())
					}
					m := mitosistest.New(t, test.options)
					require.NoError(t, program(m))
					if generation == 2 {
						var err error
						m, err = mitosistest.Split(t, m, program)
						require.NoError(t, err)
					}
					go echoAll(l)
					const clients = 8
					asked, results := make(chan struct{}), make(chan error, clients)
					for range clients {
						go func() { results <- dialUntilRefused(l.Addr(), asked) }()
					}
					for range 50 {
						<-asked
					}
					require.NoError(t, l.(*mitosis.Listener).Drain(t.Context()))
					for range clients {
						require.NoError(t, <-results)
					}
					require.NoError(t, m.Close())
				}
			})
		}
	}
}
