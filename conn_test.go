package mitosis_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

var quiet = mitosis.Options{Logger: slog.New(slog.DiscardHandler)}

// start returns a registry that is ready.
func start(t testing.TB, options mitosis.Options) *mitosis.Registry {
	t.Helper()
	m := mitosistest.New(t, options)
	require.NoError(t, m.Ready(t.Context()))
	return m
}

// split hands m over to a generation that does nothing but be ready.
func split(t testing.TB, m *mitosis.Registry) *mitosis.Registry {
	t.Helper()
	next, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error { return m.Ready(context.Background()) })
	require.NoError(t, err)
	return next
}

// failSplit splits into a generation that exits before it is ready.
func failSplit(t testing.TB, m *mitosis.Registry) {
	t.Helper()
	_, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error { return fmt.Errorf("no") })
	require.ErrorIs(t, err, mitosis.ErrChildExited)
}

// failSplitAtTheCut splits into a generation whose Load fails, when all is frozen.
func failSplitAtTheCut(t testing.TB, m *mitosis.Registry) {
	t.Helper()
	_, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return m.Ready(ctx)
	})
	require.Error(t, err)
}

// connect returns a managed connection and its peer.
func connect(t testing.TB, m *mitosis.Registry, name, network string) (*mitosis.Conn, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "peer.sock")
	}
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	defer ln.Close()
	c, err := m.Dial(t.Context(), name, network, ln.Addr().String())
	require.NoError(t, err)
	peer, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { peer.Close() })
	return c, peer
}

func TestConnIsANetConn(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			m := start(t, quiet)
			var mu sync.Mutex
			n := 0
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				mu.Lock()
				n++
				name := fmt.Sprint("conn ", n)
				mu.Unlock()
				c, peer := connect(t, m, name, network)
				return c, peer, func() { c.Close(); peer.Close() }, nil
			})
		})
	}
}

func TestAnInheritedConnIsANetConn(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	var mu sync.Mutex
	n := 0
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		name := fmt.Sprint("conn ", n)
		_, peer := connect(t, m, name, "tcp")
		m = split(t, m)
		c, err := m.Conn(name)
		if err == nil && !c.Inherited() {
			err = fmt.Errorf("not inherited")
		}
		return c, peer, func() { c.Close(); peer.Close() }, err
	})
}

// TestEveryByteArrivesOnceThroughContinuousSplits echoes in every generation what
// the peer writes, in pieces of random sizes, while the process splits all the time.
func TestEveryByteArrivesOnceThroughContinuousSplits(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"read", "reader", "mark"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			m := start(t, quiet)
			_, peer := connect(t, m, "echo", "tcp")
			const lines = 10000
			random := rand.New(rand.NewPCG(1, 2))
			var sent bytes.Buffer
			for i := range lines {
				fmt.Fprintf(&sent, "%d %s\n", i, strings.Repeat("x", random.IntN(90)))
				if i%1000 == 500 {
					fmt.Fprintf(&sent, "%d %s\n", i, strings.Repeat("long", 5000))
				}
			}
			const generations = 8
			splits := make(chan struct{}, 1)
			go func() {
				rest := sent.Bytes()
				for i := generations; len(rest) > 0; {
					n := min(len(rest), 1+random.IntN(9000))
					if _, err := peer.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
					if len(rest) < sent.Len()*i/generations {
						i--
						<-splits // so that no machine is too fast
					}
				}
			}()
			received := make(chan []byte, 1)
			go func() {
				b := make([]byte, sent.Len())
				n, _ := io.ReadFull(peer, b)
				received <- b[:n]
			}()
			for {
				c, err := m.Conn("echo")
				require.NoError(t, err)
				done := make(chan struct{})
				go func() { defer close(done); echo(c, way) }()
				select {
				case b := <-received:
					require.Equal(t, sent.Len(), len(b))
					require.True(t, bytes.Equal(sent.Bytes(), b), "the bytes are not those that were sent")
					peer.Close()
					<-done
					t.Logf("%d generations", m.Generation())
					require.Greater(t, m.Generation(), generations)
					return
				case splits <- struct{}{}:
				case <-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond): // let some traffic pass
				}
				failSplit(t, m)
				failSplitAtTheCut(t, m)
				m = split(t, m)
				<-done
			}
		})
	}
}

// echo writes back what it reads, in one of the three ways, until it is handed over.
func echo(c *mitosis.Conn, way string) {
	switch way {
	case "read":
		b := make([]byte, 3000)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
	case "reader":
		for {
			line, err := c.Reader().ReadString('\n')
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	case "mark":
		var held []byte
		b := make([]byte, 7000)
		c.Mark(nil)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			held = append(held, b[:n]...)
			for {
				i := bytes.IndexByte(held, '\n')
				if i < 0 {
					break
				}
				if _, err := c.Write(held[:i+1]); err != nil {
					return
				}
				held = held[i+1:]
				if c.Mark(held) != nil {
					return
				}
			}
		}
	}
}

func TestAWriteThatWaitsForASlowPeerIsFinishedByTheNextGeneration(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "slow", "tcp")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	written := make(chan error, 1)
	go func() {
		n, err := c.Write(big)
		if err == nil && n != len(big) {
			err = io.ErrShortWrite
		}
		written <- err
	}()
	first := make([]byte, 1)
	_, err := io.ReadFull(peer, first) // the write is under way
	require.NoError(t, err)
	m = split(t, m)
	require.NoError(t, <-written)
	m = split(t, m) // and once more, unsent as it is
	next, err := m.Conn("slow")
	require.NoError(t, err)
	go func() {
		io.WriteString(next, "the end")
		next.CloseWrite()
	}()
	all, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(big[1:], "the end"...), all))
}

// TestAPeerThatTakesNothingHoldsUpNoSplit has a reader that cannot come back to
// Read, because it writes to a peer that does not read.
func TestAPeerThatTakesNothingHoldsUpNoSplit(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "stalled", "tcp")
	answer := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			c.Write(answer)
			c.Read(make([]byte, 1))
		}
	}()
	_, err := io.WriteString(peer, "x")
	require.NoError(t, err)
	first := make([]byte, 1)
	_, err = io.ReadFull(peer, first) // the answer is under way
	require.NoError(t, err)
	failSplitAtTheCut(t, m)
	m = split(t, m)
	next, err := m.Conn("stalled")
	require.NoError(t, err)
	go func() {
		io.WriteString(next, "the end")
		next.CloseWrite()
	}()
	all, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(answer[1:], "the end"...), all))
}

func TestOldCallsAfterTheCommitSayWhoHasTheConnection(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	reading := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		reading <- err
	}()
	next := split(t, m)
	for what, err := range map[string]error{
		"read that was waiting": <-reading,
		"read":                  second(c.Read(make([]byte, 1))),
		"write":                 second(c.Write([]byte("x"))),
		"close":                 c.Close(),
		"mark":                  c.Mark(nil),
	} {
		assert.ErrorIs(t, err, net.ErrClosed, what)
		assert.ErrorIs(t, err, mitosis.ErrSuperseded, what)
	}
	inherited, err := next.Conn("c")
	require.NoError(t, err)
	_, err = io.WriteString(inherited, "still here")
	require.NoError(t, err)
	require.NoError(t, inherited.Close())
	all, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, "still here", string(all))
}

func second[T any](_ T, err error) error { return err }

func TestWhatWasReadAheadComesFirstInThisGenerationOrTheNext(t *testing.T) {
	t.Parallel()
	for _, generations := range []int{1, 2} {
		m := start(t, quiet)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		peer, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer peer.Close()
		accepted, err := ln.Accept()
		require.NoError(t, err)
		_, err = m.AddConn("hijacked", accepted, []byte("read "), []byte("ahead"))
		require.NoError(t, err)
		for range generations - 1 {
			m = split(t, m)
		}
		c, err := m.Conn("hijacked")
		require.NoError(t, err)
		_, err = io.WriteString(peer, ", and the rest")
		require.NoError(t, err)
		b := make([]byte, len("read ahead, and the rest"))
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		require.Equal(t, "read ahead, and the rest", string(b))
	}
}
