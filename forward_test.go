package mitosis_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

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
	peer = dial(t, l)
	accepted, err = l.Accept()
	require.NoError(t, err)
	return m, l.(*mitosis.Listener), accepted, peer
}

// dial returns a connection to ln, for the time of the test.
func dial(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// acceptMany returns connections that ln has accepted, and their peers.
func acceptMany(t *testing.T, ln net.Listener, many int) (accepted, peers []net.Conn) {
	t.Helper()
	for range many {
		peer := dial(t, ln)
		c, err := ln.Accept()
		require.NoError(t, err)
		accepted, peers = append(accepted, c), append(peers, peer)
	}
	return accepted, peers
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
	m, ln, _, _ := listening(t)
	const many = 200
	conns, peers := acceptMany(t, ln, many)
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
	for _, c := range conns {
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

func TestAConnectionReachesTheNewestGenerationWhenThoseBetweenHaveGone(t *testing.T) {
	t.Parallel()
	m1, ln1, accepted, peer := listening(t)
	m2, _ := splitListening(t, m1)
	m3, ln3 := splitListening(t, m2)
	require.NoError(t, m2.Close())
	_, ln4 := splitListening(t, m3)
	require.NoError(t, m3.Close())
	_, err := ln3.Accept()
	require.ErrorIs(t, err, mitosis.ErrSuperseded)

	_, err = io.WriteString(peer, " world")
	require.NoError(t, err)
	// The links are passed on by goroutines: until then the connection is refused, and stays whole.
	require.Eventually(t, func() bool { return ln1.Forward(accepted, []byte("hello")) == nil }, 10*time.Second, time.Millisecond)
	c, err := ln4.Accept()
	require.NoError(t, err)
	b := make([]byte, len("hello world"))
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "hello world", string(b))
}

// Bytes and descriptors that the generation between has received and not dealt with go on, too.
func TestNothingIsLostWhenTheLinkOfAnOlderGenerationIsPassedOnInTheMiddleOfATransfer(t *testing.T) {
	t.Parallel()
	m1, ln1, _, _ := listening(t)
	const many = 60
	accepted, _ := acceptMany(t, ln1, many)
	m2, _ := splitListening(t, m1)
	sent := make(chan error, 1)
	unread := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // three frames
	go func() {
		for i, c := range accepted {
			if err := ln1.Forward(c, append([]byte{byte(i)}, unread...)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	m3, ln3 := splitListening(t, m2)
	_, ln4 := splitListening(t, m3)
	seen := map[byte]bool{}
	for range accepted {
		c, err := ln4.Accept()
		require.NoError(t, err)
		b := make([]byte, 1+len(unread))
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		require.Equal(t, unread, b[1:])
		seen[b[0]] = true
		c.Close()
	}
	require.Len(t, seen, many)
	require.NoError(t, <-sent)
	_, err := ln3.Accept()
	require.ErrorIs(t, err, mitosis.ErrSuperseded)
}

func TestAForwardedConnectionThatStaysSilentIsClosedAtItsDeadlineInWhicheverGeneration(t *testing.T) {
	t.Parallel()
	m1, ln1, accepted, peer := listening(t)
	m2, _ := splitListening(t, m1)
	require.NoError(t, ln1.ForwardUntil(accepted, nil, time.Now().Add(300*time.Millisecond)))
	splitListening(t, m2)
	began := time.Now()
	require.NoError(t, peer.SetReadDeadline(began.Add(20*time.Second)))
	_, err := peer.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestAForwardedConnectionWithUnreadBytesCanBeGivenToTheRegistry(t *testing.T) {
	t.Parallel()
	m1, ln1, accepted, peer := listening(t)
	m2, ln2 := splitListening(t, m1)
	require.NoError(t, ln1.Forward(accepted, []byte("he")))
	late, err := ln2.Accept()
	require.NoError(t, err)
	c, err := m2.AddConn("live", late, []byte("l"))
	require.NoError(t, err)
	_, err = io.WriteString(peer, "lo")
	require.NoError(t, err)
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}

// http.Server does that: it closes its listener as soon as Accept fails.
func TestAListenerThatIsClosedAtTheCommitDropsNoParkedConnection(t *testing.T) {
	t.Parallel()
	m, ln, _, _ := listening(t)
	conns, peers := acceptMany(t, ln, 50)
	m, next := splitListening(t, m)
	for _, c := range conns {
		require.NoError(t, ln.Forward(c, nil))
	}
	for range 20 {
		closed := make(chan error, 1)
		go func(l *mitosis.Listener) {
			_, err := l.Accept()
			l.Close()
			closed <- err
		}(next)
		m, next = splitListening(t, m)
		require.ErrorIs(t, <-closed, mitosis.ErrSuperseded)
	}
	for _, peer := range peers {
		_, err := io.WriteString(peer, "x")
		require.NoError(t, err)
		require.NoError(t, next.SetDeadline(time.Now().Add(20*time.Second)))
		c, err := next.Accept()
		require.NoError(t, err)
		c.Close()
	}
}
