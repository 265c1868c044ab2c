//go:build unix

package httpx_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestKeepAliveConnectionsGoOnInTheNextProcess(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]plan{
		"drop-in": {DropIn: true, Address: freeAddress(t)},
		"tcp":     {},
		"unix":    {Network: "unix", Address: filepath.Join(t.TempDir(), "s")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, p)
			first := r.generation()
			idle, silent, busy := r.dial(), r.dial(), r.dial()
			require.Equal(t, first, idle.ask())
			busy.send(chunked + "2\r\nhe\r\n")
			streaming := r.dial()
			end := streaming.begin()

			second := r.restart()
			require.NotEqual(t, first, second)
			idle.requireMoved(second)
			silent.requireMoved(second)
			require.Equal(t, second, r.dial().ask())
			busy.send("3\r\nllo\r\n0\r\n\r\n")
			pid, body, response := busy.answer()
			require.Equal(t, first, pid)
			require.Equal(t, "hello", body)
			require.False(t, response.Close)
			require.Equal(t, second, busy.ask())
			end()
			streaming.requireMoved(second)
			r.gone(first)
		})
	}
}

// begin begins a request and its response, and returns a function that ends both.
func (c *client) begin() (end func()) {
	c.t.Helper()
	c.send(strings.Replace(chunked, "/", "/began", 1) + "1\r\na\r\n")
	_, err := c.r.ReadString('a')
	require.NoError(c.t, err)
	return func() {
		c.t.Helper()
		c.send("1\r\nb\r\n0\r\n\r\n")
		_, err := c.r.ReadString('b')
		require.NoError(c.t, err)
		_, err = io.ReadFull(c.r, make([]byte, len("\r\n0\r\n\r\n")))
		require.NoError(c.t, err)
	}
}

// freeAddress returns an address that nobody has just now.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestTheBeginningOfAPipelinedRequestGoesAlong(t *testing.T) {
	t.Parallel()
	r := start(t, plan{})
	const request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
	var clients []*client
	for held := range 4 {
		c := r.dial()
		c.send(request + request + request[:held])
		for range 2 {
			pid, _, _ := c.answer()
			require.Equal(t, r.generation(), pid)
		}
		clients = append(clients, c)
	}
	first := r.generation()
	second := r.restart()
	r.gone(first) // all have moved
	for held, c := range clients {
		c.send(request[held:])
		pid, body, _ := c.answer()
		require.Equal(t, second, pid, "%d bytes", held)
		require.Equal(t, "hello", body)
		require.Equal(t, second, c.ask())
	}
}

func TestARequestOfWhichMoreHasComeIsAnsweredByTheOldProcess(t *testing.T) {
	t.Parallel()
	r := start(t, plan{})
	first := r.generation()
	const request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
	var clients []*client
	for i := 4; i < len(request); i += 7 {
		c := r.dial()
		require.Equal(t, first, c.ask())
		c.send(request[:i])
		clients = append(clients, c)
	}
	other := r.dial()
	require.Equal(t, first, other.ask())
	second := r.restart()
	other.requireMoved(second)
	for i, c := range clients {
		c.send(request[4+7*i:])
		pid, body, _ := c.answer()
		require.Contains(t, []int{first, second}, pid) // the bytes may still have been on the way
		require.Equal(t, "hello", body)
		require.Equal(t, second, c.ask())
	}
	r.gone(first)
}

func TestABusyConnectionReachesTheNewestProcessWhenThoseBetweenHaveGone(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]plan{"closed": {}, "not closed": {NoClose: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			busyOverRestarts(t, p)
		})
	}
}

func busyOverRestarts(t *testing.T, p plan) {
	r := start(t, p)
	first := r.generation()
	c := r.dial()
	c.send(chunked + "2\r\nhe\r\n")
	idle := r.dial()
	require.Equal(t, first, idle.ask())
	for range 5 {
		before := r.generation()
		newest := r.restart()
		if before != first {
			r.gone(before) // it stays for nobody's sake
		}
		idle.requireMoved(newest)
	}
	c.send("3\r\nllo\r\n0\r\n\r\n")
	pid, _, _ := c.answer()
	require.Equal(t, first, pid)
	require.Equal(t, r.generation(), c.ask())
	r.gone(first)
}

func TestTheOldProcessCutsWhatIsLeftAtItsLimitAndSaysSo(t *testing.T) {
	t.Parallel()
	r := start(t, plan{DrainTimeout: 300 * time.Millisecond})
	first := r.generation()
	busy, hijacked, idle := r.dial(), r.dial(), r.dial()
	busy.begin()
	hijacked.send("GET /hijack HTTP/1.1\r\nHost: x\r\n\r\n")
	_, err := hijacked.r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, first, idle.ask())
	second := r.restart()
	require.Equal(t, " busy 1 idle 0 hijacked 1", r.line("cut %d", first))
	idle.requireMoved(second)
	hijacked.requireEnd()
	_, err = io.ReadAll(busy.r)
	require.NoError(t, err)
	r.gone(first)
}

func TestAStopLosesNoRequest(t *testing.T) {
	t.Parallel()
	r := start(t, plan{Grace: 500 * time.Millisecond})
	first := r.generation()
	fromBefore := r.dial()
	require.Equal(t, first, fromBefore.ask())
	second := r.restart()
	r.gone(first)
	// fromBefore is parked now.
	idle, quiet, busy := r.dial(), r.dial(), r.dial()
	require.Equal(t, second, idle.ask())
	require.Equal(t, second, quiet.ask())
	began := busy.begin()
	r.stop()
	r.line("shutdown %d", second)
	for _, c := range []*client{idle, fromBefore} {
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		pid, _, response := c.answer()
		require.Equal(t, second, pid)
		require.True(t, response.Close, "%v", response.Header)
		c.requireEnd()
	}
	quiet.requireEnd()
	_, err := net.Dial("tcp", r.address)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	began()
	busy.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, _, response := busy.answer()
	require.True(t, response.Close)
	busy.requireEnd()
	r.gone(second)
}

// Clients that dial for each request see answers or a refused connection, never a
// connection that was accepted and dropped.
func TestAStopDropsNoConnectionThatWasAccepted(t *testing.T) {
	t.Parallel()
	for range 5 {
		r := start(t, plan{})
		results := make(chan error)
		const clients = 8
		for range clients {
			go func() { results <- askUntilRefused(r.address) }()
		}
		for range clients {
			r.dial().ask()
		}
		r.stop()
		for range clients {
			require.NoError(t, <-results)
		}
	}
}

// askUntilRefused asks on one connection after the other until none is accepted.
func askUntilRefused(address string) error {
	for asked := 0; ; asked++ {
		c, err := net.DialTimeout("tcp", address, bound)
		if err != nil {
			return nil
		}
		c.SetDeadline(time.Now().Add(bound))
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		var b []byte
		if err == nil {
			b, err = io.ReadAll(c)
		}
		c.Close()
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 OK\r\n") {
			return fmt.Errorf("request %d: %q, %w", asked, b, err)
		}
	}
}

func TestTheIdleTimeoutGoesOnOverARestart(t *testing.T) {
	t.Parallel()
	const idleTimeout = 1500 * time.Millisecond
	r := start(t, plan{IdleTimeout: idleTimeout, ReadHeaderTimeout: 100 * time.Millisecond})
	c := r.dial()
	c.ask()
	began := time.Now()
	for range 3 {
		r.restart()
	}
	c.requireEnd()
	require.Greater(t, time.Since(began), idleTimeout-200*time.Millisecond, "ReadHeaderTimeout counts from the first byte on")
}

func TestHTTPSConnectionsEndAfterTheirNextResponseAndNewOnesAreServed(t *testing.T) {
	t.Parallel()
	certificate := writeCertificate(t)
	r := start(t, plan{Certificate: certificate})
	first := r.generation()
	silent := r.dial()
	used := r.dial().secure()
	require.Equal(t, first, used.ask())
	second := r.restart()
	used.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	pid, _, response := used.answer()
	require.Equal(t, first, pid)
	require.True(t, response.Close)
	used.requireEnd()
	require.Equal(t, second, silent.secure().ask())
	r.gone(first)
}

func TestARestartWithABadCertificateFailsAndChangesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, plan{DropIn: true, Address: freeAddress(t), Certificate: writeCertificate(t), Next: filepath.Join(t.TempDir(), "missing")})
	c := r.dial().secure()
	first := c.ask()
	require.NoError(t, syscall.Kill(first, syscall.SIGHUP))
	require.Contains(t, r.line("failed "), "missing")
	require.Equal(t, first, c.ask())
	require.Equal(t, first, r.dial().secure().ask())
}
