package httpx

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultDrainTimeout = time.Minute
	defaultGrace        = time.Second

	// turns is how many connections are interrupted at a time.
	turns = 8
)

// Server serves an http.Server on listeners of a [mitosis.Registry]:
//
//	m, err := mitosis.Init(mitosis.Options{})
//	ln, err := m.Listen("web", "tcp", ":8080")
//	err = m.Ready(ctx)
//	server := &httpx.Server{Server: &http.Server{Handler: handler}}
//	go server.Serve(ln)
//	err = m.Wait(ctx)
//	err = server.Shutdown(ctx)
//
// When the next generation takes over, connections move to it on their own, and
// Shutdown waits for those that cannot. Without a successor Shutdown stops the
// service, and loses no request. All methods may be called concurrently; a Server
// serves once and must not be copied.
type Server struct {
	// Server has the settings, which are read when Serve is called: all of them keep
	// their meaning. It is served by the methods of this type, not by its own; its
	// own Shutdown and Close cause a Shutdown here, and return when that has ended.
	// Nil means a zero http.Server.
	*http.Server

	// DrainTimeout is how long the old generation, or a service that stops, may take
	// over connections that cannot be handed over. What is left then is cut; see
	// CutError. Zero means one minute, negative no limit.
	DrainTimeout time.Duration

	// Grace is how long a service that stops keeps a connection on which no request
	// is under way: one that comes in this time is still answered, with Connection:
	// close. Zero means one second, negative none.
	Grace time.Duration

	// Logger gets a record of what was handed over and cut. Nil means
	// slog.Default().
	Logger *slog.Logger

	once sync.Once // of prepare
	mode atomic.Int32

	mu     sync.Mutex
	sites  map[*site]bool    // listeners
	conns  map[*conn]bool    // those that have not gone
	others map[net.Conn]bool // those that are not of this package
	moved  int               // to the next generation
	fewer  chan struct{}     // gets one when one has gone
	begun  time.Time         // the end
	ending chan struct{}     // the end has begun
	turns  chan struct{}     // holds one for each connection that is interrupted
	ended  chan struct{}     // the last one has gone
	result error
}

// The modes of a Server.
const (
	serving  int32 = iota
	leaving        // superseded: what can move does
	alone          // superseded, and the next generation does not answer
	stopping       // there is no next generation
)

// CutError says what Shutdown has cut.
type CutError struct {
	After    time.Duration // how long the end had taken until then
	Busy     int           // connections with a request under way
	Idle     int           // connections without one
	Hijacked int           // connections that a handler had taken over
}

func (e *CutError) Error() string {
	return fmt.Sprintf("httpx: %d connections were cut after %v: %d with a request under way, %d idle, %d hijacked",
		e.Busy+e.Idle+e.Hijacked, e.After.Round(time.Millisecond), e.Busy, e.Idle, e.Hijacked)
}

func (s *Server) prepare() {
	s.once.Do(func() {
		if s.Server == nil {
			s.Server = &http.Server{}
		}
		s.sites = map[*site]bool{}
		s.conns = map[*conn]bool{}
		s.others = map[net.Conn]bool{}
		s.fewer = make(chan struct{}, 1)
		s.ending = make(chan struct{})
		s.turns = make(chan struct{}, turns)
		s.ended = make(chan struct{})
	})
}

func (s *Server) log() *slog.Logger {
	if s.Logger != nil {
		return s.Logger
	}
	return slog.Default()
}

func (s *Server) grace() time.Duration {
	if s.Grace == 0 {
		return defaultGrace
	}
	return max(s.Grace, 0)
}

// Serve serves plain HTTP on a listener of a registry, until the next generation
// takes over or Shutdown or Close is called. It then returns http.ErrServerClosed
// at once; Shutdown waits for the connections. Any other error is that of the
// listener.
//
// A listener of another kind is served as well, such as one that wraps that of a
// registry; its connections cannot move and are told Connection: close.
func (s *Server) Serve(l net.Listener) error {
	return s.serve(l, false, func(h *http.Server, l net.Listener) error { return h.Serve(l) })
}

// ServeTLS is Serve for HTTPS, with the certificates of TLSConfig or of the files,
// as in (*http.Server).ServeTLS.
func (s *Server) ServeTLS(l net.Listener, certFile, keyFile string) error {
	return s.serve(l, true, func(h *http.Server, l net.Listener) error { return h.ServeTLS(l, certFile, keyFile) })
}

// ListenAndServe is the function ListenAndServe for the address and the settings
// of this server.
func (s *Server) ListenAndServe() error { return run(entry{server: s}) }

// ListenAndServeTLS is the function ListenAndServeTLS for the address and the
// settings of this server.
func (s *Server) ListenAndServeTLS(certFile, keyFile string) error {
	return run(entry{server: s, secure: true, certFile: certFile, keyFile: keyFile})
}

// SetKeepAlivesEnabled does what it does in http.Server.
func (s *Server) SetKeepAlivesEnabled(enabled bool) {
	s.prepare()
	s.Server.SetKeepAlivesEnabled(enabled)
	s.mu.Lock()
	sites := slices.Collect(maps.Keys(s.sites))
	s.mu.Unlock()
	for _, site := range sites {
		site.engine.SetKeepAlivesEnabled(enabled) // closes idle connections, which locks s.mu
	}
}

// Shutdown ends this generation's part, and returns when its last connection is
// gone.
//
// If the next generation has taken over, connections have been moving to it since
// then, and Shutdown waits for those that cannot. Otherwise the service stops:
// connections that are still in the queue of the listener are accepted, then it is
// closed; a request that comes from now on is answered with Connection: close, and a
// connection on which no request is under way is closed after Grace. Both call the functions of
// RegisterOnShutdown.
//
// After DrainTimeout, or when ctx ends, the rest is cut, and the error is a
// *CutError.
func (s *Server) Shutdown(ctx context.Context) error {
	s.prepare()
	s.stop(ctx)
	select {
	case <-s.ended:
	case <-ctx.Done():
		s.cut()
		<-s.ended
	}
	return s.result
}

// Close closes the listeners and cuts all connections at once.
func (s *Server) Close() error {
	s.prepare()
	s.begin(stopping)
	s.cut()
	<-s.ended
	return nil
}
