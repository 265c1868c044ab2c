//go:build unix

package httpx_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// patience is the limit of every wait.
const patience = 20 * time.Second

// chain is an HTTP service in this process: a bare http.Server, or an httpx.Server
// with all its generations.
type chain struct {
	t        testing.TB
	network  string
	secure   bool
	settings func(generation int, s *http.Server)
	address  net.Addr

	registries []*mitosis.Registry // of all generations
	servers    []*httpx.Server
	served     []chan error  // what Serve returns
	states     chan struct{} // gets one for each change of a connection's state

	mu    sync.Mutex
	count map[stateOf]int // of connections that have come into a state
}

func newChain(t testing.TB, network string, settings func(int, *http.Server)) *chain {
	return &chain{t: t, network: network, settings: settings, states: make(chan struct{}, 1), count: map[stateOf]int{}}
}

func (c *chain) listenAddress() string {
	switch c.network {
	case "unix":
		directory, err := os.MkdirTemp("", "httpx") // t.TempDir makes paths that are too long
		require.NoError(c.t, err)
		c.t.Cleanup(func() { os.RemoveAll(directory) })
		return filepath.Join(directory, "s")
	case "tcp6":
		return "[::1]:0"
	}
	return "127.0.0.1:0"
}

// server returns the http.Server of a generation.
func (c *chain) server(generation int) *http.Server {
	s := &http.Server{ErrorLog: log.New(io.Discard, "", 0)}
	c.settings(generation, s)
	state := s.ConnState
	s.ConnState = func(conn net.Conn, to http.ConnState) {
		if state != nil {
			state(conn, to)
		}
		c.note(generation, to)
	}
	s.RegisterOnShutdown(func() { c.note(generation, ended) })
	return s
}

func (c *chain) note(generation int, state http.ConnState) {
	c.mu.Lock()
	c.count[stateOf{generation, state}]++
	c.mu.Unlock()
	select {
	case c.states <- struct{}{}:
	default:
	}
}

type stateOf struct {
	generation int
	state      http.ConnState
}

// awaitEnd waits until a generation has begun to let its connections go.
func (c *chain) awaitEnd(generation int) { c.t.Helper(); c.awaitState(generation, ended, 1) }

// ended is for RegisterOnShutdown what the states are for ConnState.
const ended http.ConnState = -1

// awaitState waits until n connections have come into a state in a generation.
func (c *chain) awaitState(generation int, state http.ConnState, n int) {
	c.t.Helper()
	limit := time.After(patience)
	for {
		c.mu.Lock()
		now := c.count[stateOf{generation, state}]
		c.mu.Unlock()
		if now >= n {
			return
		}
		select {
		case <-c.states:
		case <-limit:
			c.t.Fatalf("generation %d has %d of %d connections that came to be %v", generation, now, n, state)
		}
	}
}

// startBare starts the service as net/http has it.
func (c *chain) startBare() *chain {
	c.t.Helper()
	l, err := net.Listen(c.network, c.listenAddress())
	require.NoError(c.t, err)
	c.address = l.Addr()
	s := c.server(1)
	c.t.Cleanup(func() { s.Close() })
	if c.secure {
		go s.ServeTLS(l, "", "")
	} else {
		go s.Serve(l)
	}
	return c
}

// start starts the first generation of the service.
func (c *chain) start() *chain {
	c.t.Helper()
	m := mitosistest.New(c.t, mitosis.Options{Logger: slog.New(slog.DiscardHandler)})
	c.registries = append(c.registries, m)
	require.NoError(c.t, c.generation(m, c.listenAddress()))
	return c
}

func (c *chain) generation(m *mitosis.Registry, address string) error {
	l, err := m.Listen("web", c.network, address)
	if err != nil {
		return err
	}
	c.address = l.Addr()
	if err := m.Ready(context.Background()); err != nil {
		return err
	}
	server := c.server(m.Generation())
	s := &httpx.Server{Server: server, Grace: -1, Logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	c.servers, c.served = append(c.servers, s), append(c.served, served)
	c.t.Cleanup(func() { s.Close() })
	go func() {
		if c.secure {
			served <- s.ServeTLS(l, "", "")
		} else {
			served <- s.Serve(l)
		}
	}()
	return nil
}

// close ends all generations before the test ends.
func (c *chain) close() {
	for _, s := range c.servers {
		s.Close()
	}
	for _, m := range c.registries {
		m.Close()
	}
}

// split hands over to the next generation, which serves when split returns.
func (c *chain) split() {
	c.t.Helper()
	next, err := mitosistest.SplitContext(context.Background(), c.t, c.registries[len(c.registries)-1], func(m *mitosis.Registry) error {
		return c.generation(m, c.address.String())
	})
	if err != nil {
		c.t.Fatalf("split: %v", err)
	}
	c.registries = append(c.registries, next)
}

// scene is what handlers and their clients have in common.
type scene struct {
	events  chan string
	proceed chan struct{}

	mu   sync.Mutex
	seen []string // by handlers
}

func newScene() *scene {
	return &scene{events: make(chan string, 1000), proceed: make(chan struct{}, 1000)}
}

// saw records what a handler has seen.
func (s *scene) saw(format string, values ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, normalize(fmt.Sprintf(format, values...)))
}

// await waits for an event.
func (s *scene) await(t testing.TB, event string) {
	t.Helper()
	select {
	case got := <-s.events:
		if got != event {
			t.Fatalf("%q has happened instead of %q", got, event)
		}
	case <-time.After(patience):
		t.Fatalf("%q does not happen", event)
	}
}

// pause lets the client do something in the middle of a handler.
func (s *scene) pause(event string) {
	s.events <- event
	select {
	case <-s.proceed:
	case <-time.After(patience):
	}
}

// talk is what happens on one connection.
type talk struct {
	t     testing.TB
	chain *chain
	*scene
	conn     net.Conn
	r        *bufio.Reader
	received bytes.Buffer
}

// talk starts a talk on a connection.
func (c *chain) talk(conn net.Conn, s *scene) *talk {
	require.NoError(c.t, conn.SetDeadline(time.Now().Add(patience)))
	k := &talk{t: c.t, chain: c, scene: s, conn: conn}
	k.r = bufio.NewReader(io.TeeReader(conn, &k.received))
	return k
}

// step is a part of a talk.
type step func(*talk)

// exchange is a talk, which has to be the same with net/http and with this package.
type exchange struct {
	name     string
	settings func(*http.Server)
	steps    []step
	network  string // TCP unless it is given
	last     bool   // ends with the last step: there is no probe of the connection
	new      bool   // takes place on new connections only
	attempts int    // of which one has to be the same, if it depends on the time; zero is 1
}

// send sends bytes.
func send(text string) step {
	return func(k *talk) { io.WriteString(k.conn, text) } // an error shows in what is received
}

// answer reads a response to a request of that method.
func answer(method string) step {
	return func(k *talk) {
		response, err := http.ReadResponse(k.r, &http.Request{Method: method})
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			k.t.Fatalf("no response to %s; received: %.500q", method, k.received.Bytes())
		}
	}
}

// until reads up to a text.
func until(text string) step {
	return func(k *talk) {
		var got []byte
		for !bytes.HasSuffix(got, []byte(text)) {
			b, err := k.r.ReadByte()
			if err != nil {
				k.t.Fatalf("%q does not come, but %.200q and %v", text, got, err)
			}
			got = append(got, b)
		}
	}
}

// event waits for an event in the handler.
func event(name string) step {
	return func(k *talk) { k.t.Helper(); k.await(k.t, name) }
}

// proceed lets a handler that pauses go on.
func proceed(k *talk) { k.proceed <- struct{}{} }

// endOutput ends the stream to the server.
func endOutput(k *talk) { k.conn.(interface{ CloseWrite() error }).CloseWrite() }

// hangUp closes the connection.
func hangUp(k *talk) { k.conn.Close() }

// waitForEnd reads until the server closes the connection.
func waitForEnd(k *talk) {
	if _, err := io.Copy(io.Discard, k.r); errors.Is(err, os.ErrDeadlineExceeded) {
		k.t.Fatalf("the connection does not end; received: %.500q", k.received.Bytes())
	}
}

// get is a whole exchange of a request.
func get(path string) []step {
	return []step{send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET")}
}

var (
	dates       = regexp.MustCompile(`(?m)^Date: .*GMT`)
	addresses   = regexp.MustCompile(`(127\.0\.0\.1|\[::1\]):\d+`)
	generations = regexp.MustCompile(`generation (\d)`)
)

// normalize removes what differs from one run to the next.
func normalize(text string) string {
	text = dates.ReplaceAllString(text, "Date: now")
	text = addresses.ReplaceAllString(text, "address")
	return generations.ReplaceAllString(text, "generation N")
}

// account is what was received in a talk, and what the handlers have seen.
type account struct {
	received string
	seen     []string
}

// situation is where an exchange takes place.
type situation struct {
	bare   bool
	warm   bool // the connection is idle after a request, not new
	splits []int
}

func (s situation) String() string {
	if s.bare {
		return fmt.Sprintf("bare warm=%v", s.warm)
	}
	return fmt.Sprintf("httpx warm=%v splits before %v", s.warm, s.splits)
}

// play has a talk in a situation.
func (e *exchange) play(t testing.TB, s situation) account {
	t.Helper()
	scene := newScene()
	network := e.network
	if network == "" {
		network = "tcp"
	}
	c := newChain(t, network, func(generation int, s *http.Server) {
		s.Handler = scene.handler(generation)
		if e.settings != nil {
			e.settings(s)
		}
	})
	if s.bare {
		c.startBare()
	} else {
		c.start()
	}
	defer c.close()
	conn, err := net.Dial(network, c.address.String())
	require.NoError(t, err)
	defer conn.Close()
	k := c.talk(conn, scene)
	c.awaitState(1, http.StateNew, 1)
	if s.warm {
		for _, step := range get("/") {
			step(k)
		}
		c.awaitState(1, http.StateIdle, 1)
	}
	for i, step := range append(e.steps, (*talk).probe) {
		for _, at := range s.splits {
			if at == i {
				c.split()
				if i == 0 {
					c.awaitState(1, http.StateClosed, 1)
				}
			}
		}
		if i < len(e.steps) || !e.last {
			step(k)
		}
	}
	if len(s.splits) > 0 && !e.last {
		k.requireNewest(s)
	}
	scene.mu.Lock()
	defer scene.mu.Unlock()
	return account{normalize(k.received.String()), scene.seen}
}

// probe asks who has the connection, and ends it. It asks twice, since a request
// that comes while the generation before is on its way out may be answered there.
func (k *talk) probe() {
	if len(k.chain.servers) > 1 {
		k.chain.awaitEnd(len(k.chain.servers) - 1)
	}
	for _, step := range get("/generation") {
		step(k)
	}
	send("GET /generation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")(k)
	waitForEnd(k)
}

// requireNewest requires that the probe was answered by the newest generation, if
// the connection still was open.
func (k *talk) requireNewest(s situation) {
	k.t.Helper()
	found := generations.FindAllStringSubmatch(k.received.String(), -1)
	if len(found) > 1 && found[1][1] != fmt.Sprint(1+len(s.splits)) {
		k.t.Fatalf("%v: the connection is still with generation %s", s, found[1][1])
	}
}

// compare plays an exchange with net/http and in all situations with this package.
func (e *exchange) compare(t *testing.T) {
	t.Helper()
	for _, warm := range []bool{false, true} {
		if warm && e.new {
			continue
		}
		want := e.play(t, situation{bare: true, warm: warm})
		if testing.Verbose() {
			t.Logf("%s\n%s", strings.ReplaceAll(want.received, "\r", ""), strings.Join(want.seen, "\n"))
		}
		situations := []situation{{warm: warm}, {warm: warm, splits: []int{0, len(e.steps) / 2}}}
		for at := range len(e.steps) + 1 {
			situations = append(situations, situation{warm: warm, splits: []int{at}})
		}
		for _, s := range situations {
			got := e.play(t, s)
			for attempt := 1; attempt < e.attempts && !reflect.DeepEqual(want, got); attempt++ {
				want, got = e.play(t, situation{bare: true, warm: warm}), e.play(t, s)
			}
			require.Equal(t, want.received, got.received, "%s, %v", e.name, s)
			require.Equal(t, want.seen, got.seen, "%s, %v", e.name, s)
		}
	}
}

func compareAll(t *testing.T, exchanges []exchange) {
	for _, e := range exchanges {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			e.compare(t)
		})
	}
}
