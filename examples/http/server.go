package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// busyLimit is how long a request that has begun may take at the end of a generation.
const busyLimit = 5 * time.Second

// server is an http.Server that can end without breaking a promise to its clients.
type server struct {
	http.Server
	open sync.WaitGroup // connections
}

// newServer returns a server that from done on tells every client to dial anew.
func newServer(done <-chan struct{}, handler http.Handler) *server {
	s := &server{}
	s.ReadHeaderTimeout = busyLimit
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.open.Done()
		}
	}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-done:
			w.Header().Set("Connection", "close")
		default:
		}
		handler.ServeHTTP(w, r)
	})
	return s
}

// drain waits until every connection is closed, or until the limit or the end of ctx. Serve has to have returned.
//
// Shutdown would close idle connections on which a request is on its way, and drop those that it has just read.
// A connection that is closed right after an answer that announces it loses nothing, so each waits for its next one.
func (s *server) drain(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s.awaitClosed(ctx)
}

// finish closes idle connections at once and busy ones after their answer. A request that is on its way on an idle
// one is lost: HTTP/1.1 has no way to end a connection that stays silent.
func (s *server) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), busyLimit)
	defer cancel()
	s.SetKeepAlivesEnabled(false)
	s.awaitClosed(ctx)
	s.Close()
}

// awaitClosed waits until no connection is open.
func (s *server) awaitClosed(ctx context.Context) {
	closed := make(chan struct{})
	go func() {
		s.open.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
}
