package httpx

import (
	"context"
	"errors"
	"net"
	"net/http"
	"reflect"
	"sync"

	"github.com/bhuthesh/mitosis"
)

// site is one listener with the http.Server that serves it. That one, the engine,
// has the application's settings and hooks, but is not the application's own
// server: Shutdown of an http.Server makes it drop requests that it has read, and
// here the functions of RegisterOnShutdown and the GOAWAY of HTTP/2, which only
// Shutdown of the application's own can cause, have to come while the engine goes
// on.
type site struct {
	server   *Server
	listener net.Listener
	managed  *mitosis.Listener // the same, if it is one: its connections can move
	secure   bool
	engine   *http.Server
	over     chan struct{} // the engine takes no more connections
}

func (s *Server) serve(l net.Listener, secure bool, start func(*http.Server, net.Listener) error) error {
	s.prepare()
	site := &site{server: s, listener: l, secure: secure, over: make(chan struct{})}
	site.managed, _ = l.(*mitosis.Listener)
	if err := s.open(site, start); err != nil {
		l.Close()
		return err
	}
	result := make(chan error, 1)
	go func() { result <- s.serveSite(site, start) }()
	select {
	case err := <-result:
		return err
	case <-s.ending:
		return http.ErrServerClosed
	}
}

// serveSite serves until the engine takes no more connections.
func (s *Server) serveSite(site *site, start func(*http.Server, net.Listener) error) error {
	err := start(site.engine, site)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sites, site)
	close(site.over)
	s.notify()
	if !s.begun.IsZero() {
		return http.ErrServerClosed
	}
	return err
}

// open starts the application's own server on a listener that accepts nothing,
// which sets up HTTP/2, and makes the engine of its settings.
func (s *Server) open(site *site, start func(*http.Server, net.Listener) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun.IsZero() {
		return http.ErrServerClosed
	}
	own := s.Server
	base := own.BaseContext
	own.BaseContext = nil // it is for the engine to call
	front := &front{site: site, ready: make(chan struct{})}
	failed := make(chan error, 1)
	go func() { failed <- start(own, front) }()
	select {
	case <-front.ready:
	case err := <-failed:
		own.BaseContext = base
		return err
	}
	own.BaseContext = base
	site.engine = site.newEngine(own)
	s.sites[site] = true
	return nil
}

// newEngine returns an http.Server with the settings of another.
func (s *site) newEngine(own *http.Server) *http.Server {
	engine := &http.Server{}
	from, to := reflect.ValueOf(own).Elem(), reflect.ValueOf(engine).Elem()
	for i := range from.NumField() {
		if from.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	if keepAlivesDisabled(from) {
		engine.SetKeepAlivesEnabled(false)
	}
	connState, connContext, baseContext := own.ConnState, own.ConnContext, own.BaseContext
	engine.Handler = newHandler(s, own.Handler)
	engine.ConnState = func(c net.Conn, state http.ConnState) {
		s.server.note(c, state)
		if connState != nil {
			connState(c, state)
		}
	}
	engine.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		ctx = context.WithValue(ctx, http.ServerContextKey, own)
		if connContext != nil {
			ctx = connContext(ctx, c)
		}
		return ctx
	}
	if baseContext != nil {
		engine.BaseContext = func(net.Listener) context.Context { return baseContext(s.listener) }
	}
	return engine
}

// keepAlivesDisabled says whether SetKeepAlivesEnabled(false) was called, for which
// http.Server has no getter.
func keepAlivesDisabled(server reflect.Value) bool {
	field := server.FieldByName("disableKeepAlives")
	if field.Kind() == reflect.Struct {
		field = field.FieldByName("v")
	}
	return field.CanUint() && field.Uint() != 0
}

// Accept returns the next connection, wrapped if it is of a kind that can move.
func (s *site) Accept() (net.Conn, error) {
	c, unread, forwarded, err := s.accept()
	if err != nil {
		if errors.Is(err, mitosis.ErrSuperseded) {
			s.server.begin(leaving)
		}
		return nil, err
	}
	return s.server.wrap(c, s, unread, forwarded), nil
}

func (s *site) accept() (c net.Conn, unread []byte, forwarded bool, err error) {
	if s.managed != nil {
		return s.managed.AcceptForwarded()
	}
	c, err = s.listener.Accept()
	return c, nil, false, err
}

// Close closes the listener.
func (s *site) Close() error { return s.listener.Close() }

// Addr returns the listener's address.
func (s *site) Addr() net.Addr { return s.listener.Addr() }

// front is what the application's own http.Server serves: nothing. When that one is
// shut down, by whomever, the whole Server is.
type front struct {
	site  *site
	once  sync.Once
	ready chan struct{}
}

// Accept waits until the engine has ended and all connections are gone, so that
// Shutdown of the application's own server waits, too.
func (f *front) Accept() (net.Conn, error) {
	f.once.Do(func() { close(f.ready) })
	<-f.site.over
	s := f.site.server
	s.mu.Lock()
	begun := !s.begun.IsZero()
	s.mu.Unlock()
	if begun {
		<-s.ended
	}
	return nil, net.ErrClosed
}

// Close shuts the Server down.
func (f *front) Close() error {
	select {
	case <-f.ready:
		go f.site.server.stop(context.Background())
	default: // it could not be started
	}
	return nil
}

// Addr returns the listener's address.
func (f *front) Addr() net.Addr { return f.site.listener.Addr() }

// handler tells clients to dial anew when their connection cannot go on.
type handler struct {
	site *site
	next http.Handler
}

func newHandler(s *site, next http.Handler) *handler {
	if next == nil {
		next = http.DefaultServeMux
	}
	return &handler{site: s, next: next}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch mode := h.site.server.mode.Load(); {
	case mode == serving:
	case mode == leaving && h.site.canMove() && r.ProtoMajor == 1:
	default:
		w.Header().Set("Connection", "close")
	}
	h.next.ServeHTTP(w, r)
}

// canMove says whether connections can go on to the next generation.
func (s *site) canMove() bool { return s.managed != nil && !s.secure }
