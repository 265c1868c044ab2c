//go:build unix

package mitosis

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// When a parked connection becomes readable at the commit, the goroutine that sees it
// hands it on, and all others with it. The process may be at its end by then.
func TestCloseWaitsForConnectionsThatAreBeingHandedOn(t *testing.T) {
	t.Parallel()
	m, err := newRegistry(Options{SplitSignals: []os.Signal{}, StopSignals: []os.Signal{}}, inheritance{}, noLauncher{})
	require.NoError(t, err)
	ln, err := m.Listen("web", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, m.Ready(context.Background()))
	l := ln.(*Listener)
	const many = 20
	var rest []*forwardedConn
	for range many {
		peer, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer peer.Close()
		c, err := l.Accept()
		require.NoError(t, err)
		rest = append(rest, &forwardedConn{conn: c.(streamConn), unread: make([]byte, 100<<10)})
	}
	ours, theirs, err := sys.Pair()
	require.NoError(t, err)
	conn, err := sys.UnixConn(theirs)
	require.NoError(t, err)
	next := wire.NewLink(conn)
	defer next.Close()
	m.supersede(&split{m: m, link: wire.NewLink(ours)})

	l.mu.Lock()
	l.forwarded = rest
	l.mu.Unlock()
	go l.forwardRest()
	require.Eventually(t, func() bool { return !l.pending() }, bound, time.Millisecond)
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	awaitClosed(t, m.over, "Close")
	came := 0
	for {
		frame, err := next.Receive()
		if err != nil {
			break
		}
		wire.CloseDescriptors(frame.Descriptors)
		if frame.Kind == wire.Forward {
			came++
		}
	}
	require.Equal(t, many, came, "connections that have been handed on")
	require.NoError(t, <-closed)
}
