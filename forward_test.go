package mitosis_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// listening returns a ready generation 1 with a listener, and an accepted connection with its peer.
func listening(t *testing.T) (m *mitosis.Registry, ln *mitosis.Listener, accepted, peer net.Conn) {
	t.Helper()
	m = mitosistest.New(t, quiet)
	l, err := m.Listen("web", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, m.Ready(t.Context()))
	peer, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { peer.Close() })
	accepted, err = l.Accept()
	require.NoError(t, err)
	return m, l.(*mitosis.Listener), accepted, peer
}

// splitListening splits into a generation that has the listener, too.
func splitListening(t *testing.T, m *mitosis.Registry) (*mitosis.Registry, *mitosis.Listener) {
	t.Helper()
	var ln net.Listener
	next, err := mitosistest.Split(t, m, func(m *mitosis.Registry) (err error) {
		if ln, err = m.Listen("web", "tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		return m.Ready(context.Background())
	})
	require.NoError(t, err)
	return next, ln.(*mitosis.Listener)
}

func TestAForwardedConnectionIsAcceptedByTheNextGenerationWithItsUnreadBytes(t *testing.T) {
	t.Parallel()
	m, ln, accepted, peer := listening(t)
	require.ErrorIs(t, ln.Forward(accepted, nil), mitosis.ErrNotReady)
	_, next := splitListening(t, m)
	_, err := io.WriteString(peer, "lo world")
	require.NoError(t, err)
	require.NoError(t, ln.Forward(accepted, []byte("hel")))
	c, err := next.Accept()
	require.NoError(t, err)
	b := make([]byte, len("hello world"))
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "hello world", string(b))
	require.NoError(t, c.Close())
	_, err = io.ReadAll(peer)
	require.NoError(t, err, "the end is seen when the new generation closes")
}

func TestAParkedConnectionIsAcceptedWhenItIsReadableAndAlsoTwoGenerationsLater(t *testing.T) {
	t.Parallel()
	m1, ln1, accepted, peer := listening(t)
	m2, ln2 := splitListening(t, m1)
	require.NoError(t, ln1.Forward(accepted, nil))
	accepting := make(chan net.Conn, 1)
	go func() {
		c, err := ln2.Accept() // nothing to read yet, so there is nothing to accept
		if err == nil {
			accepting <- c
		}
		close(accepting)
	}()
	_, ln3 := splitListening(t, m2)
	require.Nil(t, <-accepting)
	_, err := io.WriteString(peer, "x")
	require.NoError(t, err)
	c, err := ln3.Accept()
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

func TestManyForwardedConnectionsAllReachSomeCallerOfAccept(t *testing.T) {
	t.Parallel()
	m, ln, accepted, _ := listening(t)
	const many = 200
	conns := []net.Conn{accepted}
	peers := []net.Conn{}
	for range many {
		peer, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer peer.Close()
		c, err := ln.Accept()
		require.NoError(t, err)
		conns, peers = append(conns, c), append(peers, peer)
	}
	_, next := splitListening(t, m)
	got := make(chan net.Conn)
	for range 4 {
		go func() {
			for {
				c, err := next.Accept()
				if err != nil {
					return
				}
				got <- c
			}
		}()
	}
	for _, c := range conns[1:] {
		require.NoError(t, ln.Forward(c, nil))
	}
	for _, peer := range peers {
		_, err := io.WriteString(peer, "x")
		require.NoError(t, err)
	}
	for range many {
		(<-got).Close()
	}
}
