//go:build unix

package httpx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
	"github.com/bhuthesh/mitosis/internal/orphans"
)

// plan says what a service under test is like. It travels in the environment.
type plan struct {
	DropIn      bool // httpx.Serve does everything
	Network     string
	Address     string
	Certificate string // files of this name with .crt and .key
	Next        string // the certificate of the next generation

	DrainTimeout, Grace            time.Duration
	IdleTimeout, ReadHeaderTimeout time.Duration

	Limit   time.Duration // of each phase of a split
	NoClose bool          // the registry is not closed at the end
}

const planVariable = "HTTPX_TEST_PLAN"

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(planVariable); ok {
		var p plan
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			panic(err)
		}
		if err := p.run(); err != nil {
			fmt.Printf("failed %d %v\n", os.Getpid(), err)
			os.Exit(1)
		}
		fmt.Printf("ended %d\n", os.Getpid())
		os.Exit(0)
	}
	orphans.Adopt()
	code := m.Run()
	if orphans.Remain(bound) {
		fmt.Println("a process has been left behind")
		code = max(code, 1)
	}
	os.Exit(code)
}

// run is a generation of the service.
func (p *plan) run() error {
	if p.Next != "" && os.Getenv("HTTPX_TEST_LATER") != "" {
		p.Certificate = p.Next
	}
	os.Setenv("HTTPX_TEST_LATER", "1")
	server := &http.Server{
		Addr: p.Address, Handler: service(), IdleTimeout: p.IdleTimeout, ReadHeaderTimeout: p.ReadHeaderTimeout,
		BaseContext: func(l net.Listener) context.Context {
			fmt.Printf("serving %d %s\n", os.Getpid(), l.Addr())
			return context.Background()
		},
	}
	server.RegisterOnShutdown(func() { fmt.Printf("shutdown %d\n", os.Getpid()) })
	if p.Certificate != "" {
		certificate, err := tls.LoadX509KeyPair(p.Certificate+".crt", p.Certificate+".key")
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	if p.DropIn {
		return httpx.Serve(server)
	}
	if fault, ok := os.LookupEnv(faultVariable); ok {
		os.Unsetenv(faultVariable)
		haveFault(fault)
	}
	m, err := mitosis.Init(mitosis.Options{ReadyTimeout: p.Limit, FreezeTimeout: p.Limit, StateTimeout: p.Limit, CommitTimeout: p.Limit})
	if err != nil {
		return err
	}
	if !p.NoClose {
		defer m.Close()
	}
	ln, err := m.Listen("web", p.Network, p.Address)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := m.Ready(ctx); err != nil {
		return err
	}
	s := &httpx.Server{Server: server, DrainTimeout: p.DrainTimeout, Grace: p.Grace}
	go func() {
		serve := s.Serve
		if server.TLSConfig != nil {
			serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
		}
		if err := serve(ln); err != http.ErrServerClosed {
			slog.Error("serve", "error", err)
		}
	}()
	if err := m.Wait(ctx); !errors.Is(err, mitosis.ErrSuperseded) && !errors.Is(err, mitosis.ErrStopped) {
		return err
	}
	err = s.Shutdown(ctx)
	if cut := (*httpx.CutError)(nil); errors.As(err, &cut) {
		fmt.Printf("cut %d busy %d idle %d hijacked %d\n", os.Getpid(), cut.Busy, cut.Idle, cut.Hijacked)
		err = nil
	}
	return err
}

// service answers with the pid of its process, and the body if it has got one. A
// request is under way for as long as its body is.
func service() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			fmt.Fprintf(w, "%d %s", os.Getpid(), body)
		}
	})
	mux.HandleFunc("/began", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		fmt.Fprintf(w, "%d ", os.Getpid())
		http.NewResponseController(w).Flush()
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("/fault", func(w http.ResponseWriter, r *http.Request) {
		os.Setenv(faultVariable, r.FormValue("action")+" at "+r.FormValue("step")) // of the next process
		fmt.Fprint(w, os.Getpid())
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "%d\n", os.Getpid())
		io.Copy(c, rw)
	})
	return mux
}

// running is a service, with all its generations.
type running struct {
	t       testing.TB
	command *exec.Cmd
	network string
	address string

	mu      sync.Mutex
	changed sync.Cond
	lines   []string
	ended   bool
	pids    []int // of the generations that serve or have served
}

// start starts a service.
func start(t testing.TB, p plan) *running {
	t.Helper()
	if p.Network == "" {
		p.Network = "tcp"
	}
	if p.Address == "" {
		p.Address = "127.0.0.1:0"
	}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	executable, err := os.Executable()
	require.NoError(t, err)
	command := exec.Command(executable)
	command.Env = append(os.Environ(), planVariable+"="+string(text))
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	command.Stderr = command.Stdout
	require.NoError(t, command.Start())
	r := &running{t: t, command: command, network: p.Network}
	r.changed.L = &r.mu
	go r.read(output)
	t.Cleanup(r.end)
	first := r.generation()
	require.Equal(t, command.Process.Pid, first)
	return r
}

func (r *running) read(output io.Reader) {
	scanner := bufio.NewScanner(output)
	for scanner.Scan() {
		r.mu.Lock()
		r.lines = append(r.lines, scanner.Text())
		var pid int
		var address string
		if n, _ := fmt.Sscanf(scanner.Text(), "serving %d %s", &pid, &address); n == 2 {
			r.pids = append(r.pids, pid)
			r.address = address
		}
		r.changed.Broadcast()
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.changed.Broadcast()
}

// await waits until ok, or fails.
func (r *running) await(what string, ok func() bool) {
	r.t.Helper()
	timer := time.AfterFunc(bound, func() { r.mu.Lock(); defer r.mu.Unlock(); r.changed.Broadcast() })
	defer timer.Stop()
	began := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		if r.ended || time.Since(began) >= bound {
			r.t.Fatalf("%s: not within %v; the service said:\n%s", what, bound, strings.Join(r.lines, "\n"))
		}
		r.changed.Wait()
	}
}

// line waits for a line that begins so, and returns the rest.
func (r *running) line(format string, values ...any) (rest string) {
	r.t.Helper()
	prefix := fmt.Sprintf(format, values...)
	r.await(prefix, func() bool {
		for _, line := range r.lines {
			if s, ok := strings.CutPrefix(line, prefix); ok {
				rest = s
				return true
			}
		}
		return false
	})
	return rest
}

// generation returns the newest process.
func (r *running) generation() (pid int) {
	r.t.Helper()
	r.await("a generation", func() bool { return len(r.pids) > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pids[len(r.pids)-1]
}

// restart restarts the service and returns the new process, when it serves.
func (r *running) restart() int {
	r.t.Helper()
	r.mu.Lock()
	before := len(r.pids)
	newest := r.pids[before-1]
	r.mu.Unlock()
	require.NoError(r.t, syscall.Kill(newest, syscall.SIGHUP))
	r.await("the next generation", func() bool { return len(r.pids) > before })
	r.await("the end of the old generation begins", func() bool {
		// Functions of RegisterOnShutdown run beside the end, which may come first.
		return slices.Contains(r.lines, fmt.Sprint("shutdown ", newest)) || slices.Contains(r.lines, fmt.Sprint("ended ", newest))
	})
	return r.generation()
}

// stop asks the newest generation to stop.
func (r *running) stop() {
	r.t.Helper()
	require.NoError(r.t, syscall.Kill(r.generation(), syscall.SIGTERM))
}

// gone waits until a generation has ended.
func (r *running) gone(pid int) { r.t.Helper(); r.line("ended %d", pid) }

// end ends all generations, by force if necessary.
func (r *running) end() {
	r.mu.Lock()
	pids := r.pids
	r.mu.Unlock()
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL) // they are children of this process, and not reaped yet
	}
	r.command.Wait()
	if r.t.Failed() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.t.Logf("the service said:\n%s", strings.Join(r.lines, "\n"))
	}
}

// client is one connection, with raw requests.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func (r *running) dial() *client {
	r.t.Helper()
	c, err := net.Dial(r.network, r.address)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { c.Close() })
	require.NoError(r.t, c.SetDeadline(time.Now().Add(bound)))
	return &client{r.t, c, bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(c.t, err)
}

// answer reads a response, and returns who gave it and what it said.
func (c *client) answer() (pid int, body string, response *http.Response) {
	c.t.Helper()
	response, err := http.ReadResponse(c.r, nil)
	require.NoError(c.t, err)
	b, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, http.StatusOK, response.StatusCode, string(b))
	_, err = fmt.Sscanf(string(b), "%d %s", &pid, &body)
	require.True(c.t, err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF), err)
	return pid, body, response
}

// ask sends a request and returns who answered, on a connection that goes on.
func (c *client) ask() int {
	c.t.Helper()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
	pid, body, response := c.answer()
	require.Equal(c.t, "hello", body)
	require.False(c.t, response.Close, "the connection ends")
	return pid
}

// requireMoved requires that the connection has moved to process pid, or moves after
// one more answer: a request may come before the old process looks.
func (c *client) requireMoved(pid int) {
	c.t.Helper()
	if c.ask() != pid {
		require.Equal(c.t, pid, c.ask())
	}
}

// requireEnd requires that the server closes the connection, in order.
func (c *client) requireEnd() {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	require.NoError(c.t, err)
	require.Empty(c.t, b)
}
