package mitosis_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// TCP_DEFER_ACCEPT leaves a handshake unfinished until the client sends something
// (tcp(7)), as a long way between the two does.
func TestADrainedListenerWaitsForHandshakesThatAreUnderWay(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			options := quiet
			options.ListenConfig.Control = func(_, _ string, c syscall.RawConn) (err error) {
				c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30) })
				return err
			}
			m := mitosistest.New(t, options)
			l, err := m.Listen("web", "tcp", address)
			require.NoError(t, err)
			require.NoError(t, m.Ready(t.Context()))
			ln := l.(*mitosis.Listener)
			go echoAll(ln)
			peer, silent := dial(t, ln), dial(t, ln)
			drained := make(chan error, 1)
			go func() { drained <- ln.Drain(context.Background()) }()
			for { // until no new one is accepted any more
				late, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
					break
				}
				defer late.Close()
			}
			select {
			case err := <-drained:
				t.Fatalf("Drain returned while handshakes were under way: %v", err)
			default:
			}
			requireEcho(t, peer)
			require.NoError(t, <-drained, "it does not wait for a peer that never answers")
			io.WriteString(silent, "?")
			_, err = silent.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		})
	}
}

// A service manager that has made the socket goes on with it.
func TestASocketThatOthersHaveIsNotRefusedToThemWhenItIsDrained(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := map[string]string{"tcp": "127.0.0.1:0", "unix": "@mitosis manager " + t.TempDir()}[network]
			managers, err := net.Listen(network, address)
			require.NoError(t, err)
			defer managers.Close()
			f, err := managers.(interface {
				File() (f *os.File, err error)
			}).File()
			require.NoError(t, err)
			defer f.Close()
			given, err := net.FileListener(f)
			require.NoError(t, err)
			m := mitosistest.New(t, quiet)
			added, err := m.AddListener("web", given)
			require.NoError(t, err)
			require.NoError(t, m.Ready(t.Context()))
			for generation := 1; ; generation++ {
				go echoAll(added)
				if generation == 2 {
					break
				}
				m, err = mitosistest.Split(t, m, func(m *mitosis.Registry) (err error) {
					if added, err = m.Listener("web"); err != nil {
						return err
					}
					return m.Ready(context.Background())
				})
				require.NoError(t, err)
			}
			require.NoError(t, added.(*mitosis.Listener).Drain(t.Context()))
			go echoAll(managers)
			requireEcho(t, dial(t, managers))
		})
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
