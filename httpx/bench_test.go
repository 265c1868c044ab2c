package httpx_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
	"github.com/bhuthesh/mitosis/mitosistest"
)

var quietLog = slog.New(slog.DiscardHandler)

// hello is the least that a handler can do.
var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

// bare serves hello with net/http alone.
func bare(t testing.TB) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: hello}
	go server.Serve(ln)
	t.Cleanup(func() { server.Close() })
	return ln.Addr().String()
}

// graceful serves hello with this package in a generation of this process.
func graceful(t testing.TB) (m *mitosis.Registry, server *httpx.Server, address string) {
	m = mitosistest.New(t, mitosis.Options{Logger: quietLog})
	server, address = serveGraceful(t, m)
	return m, server, address
}

func serveGraceful(t testing.TB, m *mitosis.Registry) (server *httpx.Server, address string) {
	ln, err := m.Listen("web", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, m.Ready(context.Background()))
	server = &httpx.Server{Server: &http.Server{Handler: hello}, Logger: quietLog}
	go server.Serve(ln)
	t.Cleanup(func() { server.Close() })
	return server, ln.Addr().String()
}

// caller asks over one connection, without an allocation of its own.
type caller struct {
	net.Conn
	r *bufio.Reader
}

func call(t testing.TB, address string) *caller {
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	caller := &caller{Conn: c, r: bufio.NewReaderSize(c, 512)}
	require.NoError(t, caller.ask())
	return caller
}

var smallRequest = []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")

func (c *caller) ask() error {
	if _, err := c.Write(smallRequest); err != nil {
		return err
	}
	for { // the head ends with an empty line
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := c.r.Discard(len("hello"))
	return err
}

func TestARequestTakesNoMoreAllocationsThanInABareServer(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops what is in pools at random, so that allocations cannot be counted")
	}
	count := func(address string) float64 {
		c := call(t, address)
		return testing.AllocsPerRun(500, func() {
			if err := c.ask(); err != nil {
				t.Error(err)
			}
		})
	}
	plain := count(bare(t))
	_, _, address := graceful(t)
	require.LessOrEqual(t, count(address), plain)
}

// BenchmarkKeepAlive reports the requests per second of this package beside those of
// a bare http.Server, over one connection and over 16 at once, in turns: ratio is that
// of the medians of the turns. Each turn has connections of its own: which thread
// of the system serves one makes more of a difference than the server does.
func BenchmarkKeepAlive(b *testing.B) {
	for _, conns := range []int{1, 16} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			_, _, address := graceful(b)
			servers := [2]string{bare(b), address}
			var times [2][]float64 // of a request, in nanoseconds
			n := 0
			for b.Loop() {
				for i := range servers {
					one := (n + i) % 2
					times[one] = append(times[one], requestTime(b, servers[one], conns))
				}
				n++
			}
			for i := range times {
				slices.Sort(times[i])
			}
			plain, ours := times[0][n/2], times[1][n/2]
			b.ReportMetric(plain, "bare-ns/req")
			b.ReportMetric(ours, "httpx-ns/req")
			b.ReportMetric(plain/ours, "ratio")
		})
	}
}

// requestTime returns what a request takes over that many connections at once.
func requestTime(b *testing.B, address string, conns int) float64 {
	const requests = 200 // of each
	callers := make([]*caller, conns)
	for i := range callers {
		callers[i] = call(b, address)
		defer callers[i].Close()
	}
	var asking sync.WaitGroup
	began := time.Now()
	for _, c := range callers {
		asking.Go(func() {
			for range requests {
				if err := c.ask(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	asking.Wait()
	return float64(time.Since(began).Nanoseconds()) / float64(conns*requests)
}

// BenchmarkParkedMemory reports the memory of an idle connection: in a bare
// http.Server, in httpx, and in httpx when it has come from the old generation and
// nothing was asked since.
func BenchmarkParkedMemory(b *testing.B) {
	const many = 4000
	connect := func(address string) (callers []*caller, done func()) {
		for range many {
			c, err := net.Dial("tcp", address)
			require.NoError(b, err)
			caller := &caller{Conn: c, r: bufio.NewReaderSize(c, 512)}
			require.NoError(b, caller.ask())
			caller.r = nil
			callers = append(callers, caller)
		}
		return callers, func() {
			for _, c := range callers {
				c.Close()
			}
		}
	}
	for b.Loop() {
		before := memory()
		address := bare(b)
		_, done := connect(address)
		b.ReportMetric(float64(memory()-before)/many, "bare-B/conn")
		done()

		before = memory()
		m, server, address := graceful(b)
		callers, done := connect(address)
		b.ReportMetric(float64(memory()-before)/many, "httpx-B/conn")
		_, err := mitosistest.Split(b, m, func(next *mitosis.Registry) error {
			serveGraceful(b, next)
			return nil
		})
		require.NoError(b, err)
		require.NoError(b, server.Shutdown(b.Context())) // returns when all have moved
		require.NoError(b, m.Close())
		b.ReportMetric(float64(memory()-before)/many, "parked-B/conn")
		for _, c := range callers[:10] {
			c.r = bufio.NewReader(c)
			require.NoError(b, c.ask())
		}
		done()
	}
}

// memory returns what is in use, in bytes, both ends of the connections included.
func memory() int64 {
	var stats runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapInuse + stats.StackInuse)
}
