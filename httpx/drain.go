package httpx

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bhuthesh/mitosis"
)

// drainLimit is how long Drain of a listener may take over its queue.
const drainLimit = 5 * time.Second

// stop ends this generation's part: without a successor the service stops.
func (s *Server) stop(ctx context.Context) {
	s.mu.Lock()
	sites := make([]*site, 0, len(s.sites))
	for site := range s.sites {
		sites = append(sites, site)
	}
	begun := !s.begun.IsZero()
	s.mu.Unlock()
	if begun {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	var superseded atomic.Bool
	var drains sync.WaitGroup
	for _, site := range sites {
		if site.managed == nil {
			continue // begin closes it
		}
		drains.Go(func() {
			if err := site.managed.Drain(ctx); errors.Is(err, mitosis.ErrSuperseded) {
				superseded.Store(true)
			}
		})
	}
	drains.Wait()
	mode := stopping
	if superseded.Load() {
		mode = leaving
	}
	s.begin(mode)
}

// begin begins the end.
func (s *Server) begin(mode int32) {
	s.mu.Lock()
	if !s.begun.IsZero() {
		s.mu.Unlock()
		return
	}
	s.begun = time.Now()
	s.mode.Store(mode)
	close(s.ending)
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	sites := make([]*site, 0, len(s.sites))
	for site := range s.sites {
		sites = append(sites, site)
	}
	s.mu.Unlock()
	go s.Server.Shutdown(context.Background()) // calls the functions of RegisterOnShutdown, and says GOAWAY
	go s.interrupt(conns)
	go s.finish(sites)
}

// interrupt makes the connections at rest look around, a few at a time: a request
// that comes for one of the others is answered here meanwhile, and need not wait.
func (s *Server) interrupt(conns []*conn) {
	for _, c := range conns {
		s.turns <- struct{}{}
		if !c.interrupt() {
			<-s.turns
		}
	}
}

// finish waits until everything is gone, or the limit.
func (s *Server) finish(sites []*site) {
	limit := s.drainLimit()
	if s.mode.Load() == stopping {
		timer := time.AfterFunc(s.grace(), func() { closeOthers(sites) })
		defer timer.Stop()
		for _, site := range sites {
			if site.managed == nil {
				site.listener.Close()
			}
		}
	}
	s.awaitGone(limit)
	for _, site := range sites {
		site.listener.Close()
		<-site.over
	}
	s.awaitGone(limit) // what was accepted in the last moment
	for _, site := range sites {
		if site.managed != nil && s.mode.Load() != stopping {
			site.managed.Drain(context.Background()) // what older processes hand on
		}
	}
	s.mu.Lock()
	moved, took, result := s.moved, time.Since(s.begun), s.result
	s.mu.Unlock()
	if result != nil {
		s.log().Warn("httpx: drained", "moved", moved, "duration", took, "error", result)
	} else {
		s.log().Info("httpx: drained", "moved", moved, "duration", took)
	}
	close(s.ended)
}

// drainLimit returns a channel that is closed at the drain limit.
func (s *Server) drainLimit() <-chan struct{} {
	timeout := s.DrainTimeout
	if timeout == 0 {
		timeout = defaultDrainTimeout
	}
	if timeout < 0 {
		return nil
	}
	limit := make(chan struct{})
	timer := time.AfterFunc(timeout, func() { close(limit) })
	go func() {
		<-s.ended
		timer.Stop()
	}()
	return limit
}

// awaitGone waits until no connection is left, and cuts what is left at the limit.
func (s *Server) awaitGone(limit <-chan struct{}) {
	for {
		s.mu.Lock()
		left := len(s.conns) + len(s.others)
		s.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-s.fewer:
		case <-limit:
			s.cut()
		}
	}
}

// cut closes what is left.
func (s *Server) cut() {
	s.mu.Lock()
	conns, others := s.conns, s.others
	s.conns, s.others = map[*conn]bool{}, map[net.Conn]bool{}
	cut := &CutError{After: time.Since(s.begun), Busy: len(others)}
	for c := range conns {
		cut.count(c)
	}
	if cut.Busy+cut.Idle+cut.Hijacked > 0 {
		s.result = cut
	}
	s.notify()
	s.mu.Unlock()
	for c := range conns {
		c.inner.Close()
	}
	for c := range others {
		c.Close()
	}
}

func (e *CutError) count(c *conn) {
	if !c.mu.TryLock() { // it waits to be handed on, to a process that takes nothing
		e.Idle++
		return
	}
	defer c.mu.Unlock()
	switch {
	case c.gone: // handed on just now
	case c.stage == hijacked:
		e.Hijacked++
	case c.stage == idle, c.stage == fresh && c.received == 0:
		e.Idle++
	default:
		e.Busy++
	}
}

// notify wakes awaitGone, with s.mu held.
func (s *Server) notify() {
	select {
	case s.fewer <- struct{}{}:
	default:
	}
}

// closeOthers closes the idle ones of the connections that are not of this package.
func closeOthers(sites []*site) {
	for _, site := range sites {
		if site.managed == nil {
			site.engine.SetKeepAlivesEnabled(false)
		}
	}
}

// note follows the states of a connection.
func (s *Server) note(c net.Conn, state http.ConnState) {
	if w := wrapperOf(c); w != nil {
		w.note(c, state)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.others[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(s.others, c)
		s.notify()
	}
}

// track keeps c until it is gone.
func (s *Server) track(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
}

// untrack notes that c is gone: closed, or handed on.
func (s *Server) untrack(c *conn, moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.conns[c] {
		return
	}
	delete(s.conns, c)
	if moved {
		s.moved++
	}
	if !s.begun.IsZero() {
		s.notify()
	}
}

// wrapperOf returns the connection of this package that c is, or that is beneath
// the TLS connection c.
func wrapperOf(c net.Conn) *conn {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	switch c := c.(type) {
	case *tcpConn:
		return &c.conn
	case *unixConn:
		return &c.conn
	}
	return nil
}
