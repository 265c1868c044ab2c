package httpx_test

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
