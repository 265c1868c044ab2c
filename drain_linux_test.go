package mitosis_test

import (
	"context"
	"io"
	"net"
	"os"
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
			_, err = io.WriteString(peer, "?")
			require.NoError(t, err)
			_, err = io.ReadFull(peer, make([]byte, 1))
			require.NoError(t, err)
			require.NoError(t, <-drained, "it does not wait for a peer that never answers")
			io.WriteString(silent, "?")
			_, err = silent.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		})
	}
}

func dial(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
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
			c, err := net.Dial(network, managers.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, "?")
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 1))
			require.NoError(t, err)
		})
	}
}
