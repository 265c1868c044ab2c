//go:build unix

package httpx_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/httpx"
)

// within fails the test if f does not return.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s does not return", what)
	}
}

func TestCloseReturnsWhileConnectionsMove(t *testing.T) {
	t.Parallel()
	for range 20 {
		c := newChain(t, "tcp", func(generation int, s *http.Server) { s.Handler = newScene().handler(generation) }).start()
		const clients = 50
		for range clients {
			conn, err := net.Dial("tcp", c.address.String())
			require.NoError(t, err)
			defer conn.Close()
		}
		c.awaitState(1, http.StateNew, clients)
		c.split()
		c.awaitState(1, http.StateClosed, 1) // they have begun to move
		within(t, "Close", func() { c.servers[0].Close() })
	}
}

// stoppable starts a service on which a request is under way.
func stoppable(t *testing.T) (c *chain, s *scene, own *http.Server, busy *talk) {
	s = newScene()
	c = newChain(t, "tcp", func(generation int, server *http.Server) {
		server.Handler = s.handler(generation)
		own = server
	}).start()
	busy = c.dial(s)
	busy.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
	return c, s, own, busy
}

func TestTheServersOwnShutdownStopsTheService(t *testing.T) {
	t.Parallel()
	c, s, own, busy := stoppable(t)
	idle, silent := c.dial(s), c.dial(s)
	idle.do(get("/"))
	stopped := make(chan error, 1)
	go func() { stopped <- own.Shutdown(context.Background()) }()
	within(t, "Serve", func() { require.ErrorIs(t, <-c.served[0], http.ErrServerClosed) })
	idle.do(waitForEnd)
	silent.do(waitForEnd)
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown returned while a request was under way: %v", err)
	default:
	}
	busy.do(proceed, waitForEnd)
	require.Contains(t, busy.received.String(), "GET /slow")
	within(t, "Shutdown", func() { require.NoError(t, <-stopped) })
	within(t, "Shutdown of this package", func() { require.NoError(t, c.servers[0].Shutdown(context.Background())) })
	_, err := net.Dial("tcp", c.address.String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	require.ErrorIs(t, c.servers[0].Serve(l), http.ErrServerClosed)
	require.ErrorIs(t, own.Serve(l), http.ErrServerClosed)
}

func TestTheServersOwnCloseStopsTheService(t *testing.T) {
	t.Parallel()
	c, _, own, busy := stoppable(t)
	closed := make(chan error, 1)
	go func() { closed <- own.Close() }()
	within(t, "Serve", func() { require.ErrorIs(t, <-c.served[0], http.ErrServerClosed) })
	busy.do(proceed, waitForEnd)
	within(t, "Close", func() { require.NoError(t, <-closed) })
	require.Contains(t, busy.received.String(), "GET /slow")
	within(t, "Shutdown", func() { require.NoError(t, c.servers[0].Shutdown(context.Background())) })
}

func TestTheServersOwnShutdownAfterASplitWaitsForWhatCannotMove(t *testing.T) {
	t.Parallel()
	scene := newScene()
	var owns []*http.Server
	c := newChain(t, "tcp", func(generation int, s *http.Server) {
		s.Handler = scene.handler(generation)
		owns = append(owns, s)
	}).start()
	busy := c.dial(scene)
	busy.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
	c.split()
	stopped := make(chan error, 1)
	go func() { stopped <- owns[0].Shutdown(context.Background()) }()
	within(t, "Serve", func() { require.ErrorIs(t, <-c.served[0], http.ErrServerClosed) })
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown returned while a request was under way: %v", err)
	default:
	}
	busy.do(proceed, answer("GET"), (*talk).probe)
	require.Contains(t, busy.received.String(), "generation 2")
	require.NotContains(t, strings.Split(busy.received.String(), "generation")[0], "Connection: close")
	within(t, "Shutdown", func() { require.NoError(t, <-stopped) })
}

func TestShutdownCutsWhatIsLeftWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	c, _, _, busy := stoppable(t)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- c.servers[0].Shutdown(ctx) }()
	within(t, "Serve", func() { require.ErrorIs(t, <-c.served[0], http.ErrServerClosed) })
	cancel()
	within(t, "Shutdown", func() {
		var cut *httpx.CutError
		require.ErrorAs(t, <-stopped, &cut)
		require.Equal(t, 1, cut.Busy)
	})
	busy.do(waitForEnd)
	require.Empty(t, busy.received.String())
}
