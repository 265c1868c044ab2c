package mitosis

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gatedReader reads from a connection through a gate.
type gatedReader struct {
	*gate
	conn net.Conn
}

// newGatedReader returns a reader whose gate is shut, and the other end.
func newGatedReader(t *testing.T) (gatedReader, net.Conn) {
	conn, peer := net.Pipe()
	t.Cleanup(func() { conn.Close(); peer.Close() })
	return gatedReader{newGate(conn.SetReadDeadline), conn}, peer
}

// read reads one byte.
func (g gatedReader) read() (byte, error) {
	b := make([]byte, 1)
	err := g.do(func() error {
		_, err := g.conn.Read(b)
		return err
	})
	return b[0], err
}

// reading reads in a goroutine of its own.
func (g gatedReader) reading() <-chan result {
	done := make(chan result, 1)
	go func() {
		b, err := g.read()
		done <- result{b, err}
	}()
	return done
}

type result struct {
	b   byte
	err error
}

func (g gatedReader) awaitInside(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.inside == n
	}, 20*time.Second, time.Millisecond)
}

func outcome(t *testing.T, done <-chan result) result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(20 * time.Second):
		require.FailNow(t, "still waiting at the gate")
		return result{}
	}
}

func TestAShutGateHoldsItsCallersUntilItOpens(t *testing.T) {
	t.Parallel()
	g, peer := newGatedReader(t)
	done := g.reading()
	wrote := make(chan struct{})
	go func() {
		peer.Write([]byte{7})
		close(wrote)
	}()
	require.NoError(t, g.drained(t.Context()), "nobody is inside")
	assert.Empty(t, done)
	assert.Empty(t, wrote, "nothing was taken")
	g.open()
	assert.Equal(t, result{b: 7}, outcome(t, done))
}

func TestClosingAGateBringsThoseInsideOutWithNothingTaken(t *testing.T) {
	t.Parallel()
	g, peer := newGatedReader(t)
	g.open()
	done := g.reading()
	g.awaitInside(t, 1)
	g.close()
	require.NoError(t, g.drained(t.Context()))
	assert.Empty(t, done, "the caller sees nothing of it")
	g.open()
	peer.Write([]byte{7})
	assert.Equal(t, result{b: 7}, outcome(t, done))
}

func TestWaitingForAGateToDrainEndsWithItsContext(t *testing.T) {
	t.Parallel()
	g := newGate(func(time.Time) error { return nil }) // interrupts nobody
	g.open()
	release := make(chan struct{})
	done := make(chan error)
	inside := make(chan struct{})
	go func() {
		done <- g.do(func() error {
			close(inside)
			<-release
			return nil
		})
	}()
	<-inside
	g.close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	assert.ErrorIs(t, g.drained(ctx), cause)
	close(release)
	assert.NoError(t, <-done, "what was done is done")
}

func TestADeadlineWaitsWhileTheGateIsShut(t *testing.T) {
	t.Parallel()
	g, _ := newGatedReader(t)
	require.NoError(t, g.setUserDeadline(time.Now().Add(-time.Hour)))
	done := g.reading()
	assert.Empty(t, done)
	g.open()
	assert.ErrorIs(t, outcome(t, done).err, os.ErrDeadlineExceeded)
	require.NoError(t, g.setUserDeadline(time.Time{}))
	done = g.reading()
	g.awaitInside(t, 1)
	require.NoError(t, g.setUserDeadline(time.Now().Add(time.Millisecond)))
	assert.ErrorIs(t, outcome(t, done).err, os.ErrDeadlineExceeded)
}

func TestADeadlineHoldsAgainAfterAnInterruption(t *testing.T) {
	t.Parallel()
	for name, interrupt := range map[string]func(gatedReader){
		"close": func(g gatedReader) { g.close(); g.open() },
		"poke":  func(g gatedReader) { g.poke() },
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newGatedReader(t)
			g.open()
			require.NoError(t, g.setUserDeadline(time.Now().Add(time.Second)))
			done := g.reading()
			g.awaitInside(t, 1)
			interrupt(g)
			assert.ErrorIs(t, outcome(t, done).err, os.ErrDeadlineExceeded)
		})
	}
}

func TestAPokeLetsThoseInsideLookAround(t *testing.T) {
	t.Parallel()
	g, peer := newGatedReader(t)
	g.open()
	rounds := make(chan struct{}, 10)
	done := make(chan error, 1)
	go func() {
		done <- g.do(func() error {
			rounds <- struct{}{}
			_, err := g.conn.Read(make([]byte, 1))
			return err
		})
	}()
	<-rounds
	for range 3 {
		g.awaitInside(t, 1)
		g.poke()
		<-rounds
	}
	peer.Write([]byte{1})
	assert.NoError(t, <-done)
}

func TestAnEndedGateTurnsEverybodyAway(t *testing.T) {
	t.Parallel()
	g, _ := newGatedReader(t)
	waiting := g.reading()
	g.end(handedOver)
	for range 2 {
		err := outcome(t, waiting).err
		assert.ErrorIs(t, err, ErrSuperseded)
		assert.ErrorIs(t, err, net.ErrClosed)
		g.open() // changes nothing
		g.end(net.ErrClosed)
		waiting = g.reading()
	}

	g, _ = newGatedReader(t)
	g.open()
	inside := g.reading()
	g.awaitInside(t, 1)
	g.end(handedOver)
	g.conn.Close()
	assert.ErrorIs(t, outcome(t, inside).err, ErrSuperseded, "not the error that closing caused")
}

// Readers on all sides of a gate that opens and shuts take every datagram once.
func TestNothingIsLostAtAGateThatOpensAndShuts(t *testing.T) {
	t.Parallel()
	const datagrams = 2000
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer conn.Close()
	client, err := net.Dial("udp", conn.LocalAddr().String())
	require.NoError(t, err)
	defer client.Close()

	g := newGate(conn.SetReadDeadline)
	room := make(chan struct{}, 100) // less than fits into the socket's buffer
	var mu sync.Mutex
	seen := map[uint32]int{}
	var atRest atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			b := make([]byte, 4)
			for {
				err := g.do(func() error {
					_, _, err := conn.ReadFrom(b)
					if err == nil {
						assert.False(t, atRest.Load(), "nobody reads while it is shut")
					}
					return err
				})
				if err != nil {
					assert.ErrorIs(t, err, ErrSuperseded)
					return
				}
				mu.Lock()
				seen[binary.BigEndian.Uint32(b)]++
				mu.Unlock()
				<-room
			}
		})
	}
	stop := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			g.open()
			if i%3 == 0 {
				g.poke()
			}
			g.close()
			assert.NoError(t, g.drained(t.Context()))
			atRest.Store(true)
			runtime.Gosched()
			atRest.Store(false)
		}
	})
	for i := range uint32(datagrams) {
		room <- struct{}{}
		_, err := client.Write(binary.BigEndian.AppendUint32(nil, i))
		require.NoError(t, err)
	}
	for range cap(room) {
		room <- struct{}{}
	}
	close(stop)
	keeper.Wait()
	g.end(handedOver)
	conn.Close()
	readers.Wait()
	assert.Len(t, seen, datagrams)
	for i, n := range seen {
		assert.Equal(t, 1, n, "datagram %d", i)
	}
}
