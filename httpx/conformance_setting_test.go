//go:build unix

package httpx_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
)

// journal is what hooks have been called with.
type journal struct {
	mu      sync.Mutex
	entries []string
}

func (j *journal) add(format string, values ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, fmt.Sprintf(format, values...))
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.entries...)
}

// Write is for a log.Logger.
func (j *journal) Write(p []byte) (int, error) {
	line, _, _ := bytes.Cut(p, []byte("\n"))
	j.add("%s", normalize(string(line)))
	return len(p), nil
}

// dial starts a talk.
func (c *chain) dial(s *scene) *talk {
	c.t.Helper()
	conn, err := net.Dial(c.network, c.address.String())
	require.NoError(c.t, err)
	c.t.Cleanup(func() { conn.Close() })
	return c.talk(conn, s)
}

// do performs steps.
func (k *talk) do(parts ...any) {
	k.t.Helper()
	for _, step := range steps(parts...) {
		step(k)
	}
}

func TestConnStateReportsTheStatesOfEachGeneration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		steps []step
		want  []string // in the generation in which the steps are done
	}{
		"silent":  {nil, []string{"new"}},
		"request": {get("/"), []string{"new", "active", "idle"}},
		"two":     {append(get("/"), get("/")...), []string{"new", "active", "idle", "active", "idle"}},
		"hijack":  {hijacking, []string{"new", "active", "hijacked"}},
		"close":   {append(get("/close"), waitForEnd), []string{"new", "active", "closed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, bare := range []bool{true, false} {
				var states [3]journal
				scene := newScene()
				c := newChain(t, "tcp", func(generation int, s *http.Server) {
					s.Handler = scene.handler(generation)
					s.ConnState = func(_ net.Conn, state http.ConnState) { states[generation].add("%v", state) }
				})
				if bare {
					c.startBare()
				} else {
					c.start()
				}
				k := c.dial(scene)
				k.do(test.steps)
				last := map[string]http.ConnState{"new": http.StateNew, "idle": http.StateIdle, "hijacked": http.StateHijacked, "closed": http.StateClosed}[test.want[len(test.want)-1]]
				n := 1
				if name == "two" {
					n = 2
				}
				c.awaitState(1, last, n)
				require.Equal(t, test.want, states[1].all(), "bare: %v", bare)
				if bare || last != http.StateIdle {
					continue
				}
				c.split()
				c.awaitState(1, http.StateClosed, 1)
				require.Equal(t, append(test.want, "closed"), states[1].all())
				require.Empty(t, states[2].all(), "it appears with its next request")
				k.do(get("/close"), waitForEnd)
				c.awaitState(2, http.StateClosed, 1)
				require.Equal(t, []string{"new", "active", "closed"}, states[2].all())
			}
		})
	}
}

func TestConnContextIsCalledForEachConnectionOfAGeneration(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "tcp6", "unix"} {
		type key struct{}
		var calls journal
		scene := newScene()
		c := newChain(t, network, func(generation int, s *http.Server) {
			s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
				beneath := conn.(interface{ NetConn() net.Conn }).NetConn()
				calls.add("%d %T", generation, beneath)
				if _, ok := conn.(syscall.Conn); !ok {
					calls.add("it has no descriptor")
				}
				if ctx.Value(http.ServerContextKey) != s {
					calls.add("another server")
				}
				return context.WithValue(ctx, key{}, fmt.Sprint("value ", generation))
			}
			s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Context().Value(http.ServerContextKey) != s {
					calls.add("another server")
				}
				fmt.Fprint(w, r.Context().Value(key{}), "\n")
			})
		}).start()
		k := c.dial(scene)
		k.do(send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), until("value 1\n"))
		k.do(send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), until("value 1\n"))
		c.awaitState(1, http.StateIdle, 2)
		c.split()
		c.awaitState(1, http.StateClosed, 1)
		k.do(send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), until("value 2\n"))
		kind := "*net.TCPConn"
		if network == "unix" {
			kind = "*net.UnixConn"
		}
		require.Equal(t, []string{"1 " + kind, "2 " + kind}, calls.all())
	}
}

func TestBaseContextIsCalledOnceWithTheListener(t *testing.T) {
	t.Parallel()
	type key struct{}
	var calls journal
	scene := newScene()
	c := newChain(t, "tcp", func(generation int, s *http.Server) {
		s.BaseContext = func(l net.Listener) context.Context {
			_, managed := l.(*mitosis.Listener)
			calls.add("%d %v", generation, managed)
			return context.WithValue(context.Background(), key{}, generation)
		}
		s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "base %v\n", r.Context().Value(key{}))
		})
	}).start()
	k, other := c.dial(scene), c.dial(scene)
	for _, k := range []*talk{k, other} {
		k.do(send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), until("base 1\n"))
	}
	c.awaitState(1, http.StateIdle, 2)
	c.split()
	c.awaitState(1, http.StateClosed, 2)
	k.do(send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), until("base 2\n"))
	require.Equal(t, []string{"1 true", "2 true"}, calls.all())
}

func TestErrorLogGetsWhatItGetsInNetHTTP(t *testing.T) {
	t.Parallel()
	var logs [2][]string
	for i := range logs {
		var lines journal
		scene := newScene()
		c := newChain(t, "tcp", func(generation int, s *http.Server) {
			s.Handler = scene.handler(generation)
			s.ErrorLog = log.New(&lines, "", 0)
		})
		if i == 0 {
			c.startBare()
		} else {
			c.start()
		}
		panicking := steps(send("GET /panic/first HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, waitForEnd)
		k := c.dial(scene)
		k.do(panicking)
		if i == 1 {
			moved := c.dial(scene)
			moved.do(get("/"))
			c.awaitState(1, http.StateIdle, 1)
			c.split()
			c.awaitState(1, http.StateClosed, 2) // k, and what has moved
			moved.do(panicking)
			c.awaitState(2, http.StateClosed, 1)
		} else {
			c.dial(scene).do(panicking)
			c.awaitState(1, http.StateClosed, 2)
		}
		logs[i] = lines.all()
	}
	require.Len(t, logs[0], 2)
	require.Contains(t, logs[0][0], "panic serving")
	require.Equal(t, logs[0], logs[1])
}

func TestFunctionsOfRegisterOnShutdownRunAtOnceAtASplit(t *testing.T) {
	t.Parallel()
	scene := newScene()
	called := make(chan int, 10)
	c := newChain(t, "tcp", func(generation int, s *http.Server) {
		s.Handler = scene.handler(generation)
		s.RegisterOnShutdown(func() { called <- generation })
	}).start()
	k := c.dial(scene)
	k.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
	c.split()
	select {
	case generation := <-called:
		require.Equal(t, 1, generation)
	case <-scene.events:
		t.Fatal("no event is to come")
	}
	k.do(proceed, answer("GET"), (*talk).probe)
	require.Contains(t, k.received.String(), "generation 2")
	within(t, "Serve", func() { require.ErrorIs(t, <-c.served[0], http.ErrServerClosed) })
	within(t, "Shutdown", func() { require.NoError(t, c.servers[0].Shutdown(context.Background())) })
	require.Empty(t, called, "once, and not in the next generation")
}

func TestKeepAlivesAreDisabledLater(t *testing.T) {
	t.Parallel()
	scene := newScene()
	c := newChain(t, "tcp", func(generation int, s *http.Server) { s.Handler = scene.handler(generation) }).start()
	idle, busy := c.dial(scene), c.dial(scene)
	idle.do(get("/"))
	c.awaitState(1, http.StateIdle, 1)
	busy.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
	c.servers[0].SetKeepAlivesEnabled(false)
	idle.do(waitForEnd)
	busy.do(proceed, waitForEnd)
	require.Contains(t, busy.received.String(), "Connection: close")

	c.servers[0].SetKeepAlivesEnabled(true)
	k := c.dial(scene)
	k.do(get("/"), (*talk).probe)
	require.Contains(t, k.received.String(), "generation 1")

	c.servers[0].SetKeepAlivesEnabled(false)
	busy = c.dial(scene)
	busy.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
	c.split()
	c.awaitEnd(1)
	busy.do(proceed, waitForEnd)
	require.Contains(t, busy.received.String(), "Connection: close")
}

func TestAHandlerMayBeAnyHandler(t *testing.T) {
	t.Parallel()
	inner := http.NewServeMux()
	inner.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "user "+r.PathValue("id")) })
	outer := http.NewServeMux()
	outer.Handle("/api/", http.StripPrefix("/api", inner))
	compare := exchange{settings: func(s *http.Server) { s.Handler = outer }, steps: append(get("/api/users/7"), get("/api/none")...), last: true}
	compare.compare(t)
	defaults := exchange{settings: func(s *http.Server) { s.Handler = nil }, steps: get("/none"), last: true}
	defaults.compare(t)
}
