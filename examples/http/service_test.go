//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// visitor is a client that keeps its connection until it is told not to.
func visitor(t *testing.T, address string) *client {
	c := &client{address: address, habit: habit{name: "visitor", keepAlive: true}, tally: newTally(100)}
	t.Cleanup(c.hangUp)
	return c
}

func (c *client) visit(t *testing.T) answer {
	t.Helper()
	c.requests++
	a, err := c.request()
	require.NoError(t, err, "request %s", c.name())
	return a
}

// traffic runs clients of all habits until stop is called.
func traffic(address string, clients int, seen *tally) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range clients {
		c := &client{number: i + 1, address: address, habit: habits[i%len(habits)], tally: seen}
		running.Go(func() { c.run(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// eventually asks until it holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(limit), "waited in vain: %s", what)
	}
}

// settled returns the hits of the service when all old generations have handed theirs on.
func settled(t *testing.T, address string, want int) int {
	t.Helper()
	n, err := settledHits(t.Context(), address, want)
	require.NoError(t, err)
	return int(n)
}

// hasEnded waits until no process is left, and checks the exit status of a generation that this process did not start.
func hasEnded(t *testing.T, pid int) {
	t.Helper()
	if status, known := orphanExit(t, pid); known {
		assert.Zero(t, status, "exit status of pid %d", pid)
	}
}

func TestThreeRestartsUnderTrafficLoseNoRequestNoConnectionAndNoHit(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "http.pid")
	p := program(t, "-addr", "127.0.0.1:0", "-pidfile", pidFile)
	serving := p.generation(1)
	address := serving.address
	seen := newTally(4)
	stop := traffic(address, 12, seen)
	defer stop()

	pids := []int{serving.pid}
	for generation := 1; ; generation++ {
		select {
		case first := <-seen.arrivals:
			require.Equal(t, generation, first.Generation)
			require.Equal(t, serving.pid, first.PID)
		case <-time.After(patience):
			require.FailNow(t, "nobody was answered", "generation %d; failures: %q", generation, seen.described())
		}
		content, err := os.ReadFile(pidFile)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(serving.pid)+"\n", string(content))
		enough := seen.counts().answered + 50
		eventually(t, "50 answers", func() bool { return seen.counts().answered >= enough })
		if generation == 4 {
			break
		}
		signalTo(t, serving.pid, syscall.SIGHUP)
		serving = p.generation(generation + 1)
		require.Equal(t, address, serving.address)
		pids = append(pids, serving.pid)
	}
	stop()

	total := seen.counts()
	assert.Zero(t, total.failed, "failures: %q", seen.described())
	assert.Equal(t, counts{answered: total.answered, byOlder: total.byOlder, dialled: 9}, total, "nine clients keep one connection each")
	assert.Equal(t, total.answered, settled(t, address, total.answered), "hits of all generations")

	signalTo(t, serving.pid, syscall.SIGTERM)
	p.end()
	assert.Zero(t, p.exit())
	for _, pid := range pids[1:] {
		hasEnded(t, pid)
	}
	assert.NoFileExists(t, pidFile)
}

func TestAKeptConnectionGoesOnInTheNextGeneration(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0")
	old := p.generation(1)
	kept := visitor(t, old.address)
	first := kept.visit(t)
	require.Equal(t, answer{Generation: 1, PID: old.pid, Hits: 1}, ignoreBody(first))
	require.Equal(t, kept.conn.LocalAddr().String(), first.Connection)

	signalTo(t, old.pid, syscall.SIGHUP)
	serving := p.generation(2)
	require.Zero(t, p.exit(), "no connection keeps the old generation")
	second := kept.visit(t)
	require.Equal(t, answer{Generation: 2, PID: serving.pid, Hits: 2}, ignoreBody(second))
	require.Equal(t, first.Connection, second.Connection)
	require.Equal(t, counts{dialled: 1}, kept.tally.counts())

	kept.hangUp()
	signalTo(t, serving.pid, syscall.SIGTERM)
	p.end()
	hasEnded(t, serving.pid)
}

func TestARequestUnderWayIsAnsweredAndCountedByTheOldGeneration(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0")
	old := p.generation(1)
	finish := halfRequest(t, old.address)
	signalTo(t, old.pid, syscall.SIGHUP)
	serving := p.generation(2)
	late := visitor(t, serving.address)
	require.Equal(t, answer{Generation: 2, PID: serving.pid, Hits: 1}, ignoreBody(late.visit(t)))

	require.Equal(t, http.StatusOK, finish())
	require.Zero(t, p.exit(), "the old generation ends with its last request")
	require.Equal(t, 2, settled(t, serving.address, 2))

	late.hangUp()
	signalTo(t, serving.pid, syscall.SIGTERM)
	p.end()
	hasEnded(t, serving.pid)
}

func ignoreBody(a answer) answer {
	a.Connection, a.Request, a.SHA256 = "", "", ""
	return a
}

func TestARequestThatDoesNotEndIsCutAtTheLimit(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0", "-drain", "300ms")
	old := p.generation(1)
	conn := stuck(t, old.address)

	began := time.Now()
	signalTo(t, old.pid, syscall.SIGHUP)
	serving := p.generation(2)
	_, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
	require.Zero(t, p.exit())

	signalTo(t, serving.pid, syscall.SIGTERM)
	p.end()
	hasEnded(t, serving.pid)
}

func TestASecondSignalEndsADrainAtOnce(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0", "-drain", "1h")
	old := p.generation(1)
	stuck(t, old.address)
	signalTo(t, old.pid, syscall.SIGHUP)
	serving := p.generation(2)
	p.line(`^generation 1, pid \d+: .*draining$`) // a signal that comes earlier is the new generation's

	signalTo(t, old.pid, syscall.SIGTERM)
	require.Equal(t, 2, visitor(t, serving.address).visit(t).Generation)
	eventually(t, "the old generation ends", func() bool { // the first signal may not have been dealt with
		_ = syscall.Kill(old.pid, syscall.SIGTERM)
		return len(p.status) > 0
	})
	require.Equal(t, -1, p.exit(), "by the signal")

	signalTo(t, serving.pid, syscall.SIGTERM)
	p.end()
	hasEnded(t, serving.pid)
}

// begunRequest sends the first half of a request, of which the handler has begun to read the body.
func begunRequest(t *testing.T, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", hitPath, address)
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	_, err = reader.ReadString('\n')
	require.NoError(t, err)
	_, err = io.WriteString(conn, "01234")
	require.NoError(t, err)
	return conn, reader
}

// stuck sends the first half of a request, and no more.
func stuck(t *testing.T, address string) io.Reader {
	t.Helper()
	_, reader := begunRequest(t, address)
	return reader
}

// halfRequest sends the first half of a request. The rest returns the status of its answer.
func halfRequest(t *testing.T, address string) (rest func() int) {
	t.Helper()
	conn, reader := begunRequest(t, address)
	return func() int {
		t.Helper()
		_, err := io.WriteString(conn, "56789")
		require.NoError(t, err)
		response, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		_, err = io.ReadAll(response.Body)
		require.NoError(t, err)
		conn.Close()
		return response.StatusCode
	}
}

func TestSIGTERMClosesIdleConnectionsAndWaitsForBusyOnes(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0")
	serving := p.generation(1)
	idle := visitor(t, serving.address)
	idle.visit(t)
	finish := halfRequest(t, serving.address)

	signalTo(t, serving.pid, syscall.SIGTERM)
	require.NoError(t, idle.conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := idle.reader.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	_, err = net.Dial("tcp", serving.address)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Equal(t, http.StatusOK, finish())
	require.Zero(t, p.exit())
	p.end()
}

func TestAFlagThatMakesNoSenseIsRefused(t *testing.T) {
	for _, arguments := range []string{"-clients=0", "-restarts=-1", "-drain=0", "-drain=-1s", "-every=-1s", "-no-such-flag", "word"} {
		t.Run(arguments, func(t *testing.T) {
			p := program(t, strings.Fields(arguments)...)
			require.Equal(t, 2, p.exit())
			p.end()
			require.NotEmpty(t, p.output())
		})
	}
}

func TestAnAddressThatIsTakenEndsTheProgram(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	p := program(t, "-addr", taken.Addr().String())
	require.Equal(t, 1, p.exit())
	p.end()
	require.Contains(t, p.output(), syscall.EADDRINUSE.Error())
}
