package httpx

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
)

const (
	// bufferSize is that of the buffer in which http.Server reads requests.
	bufferSize = 4096

	// peekSize is how many bytes http.Server waits for before it begins to read the
	// next request of a connection.
	peekSize = 4

	// handshakeGrace is how long http.Server.Shutdown, too, waits for the first
	// request of a connection.
	handshakeGrace = 5 * time.Second
)

// past is a deadline that interrupts a Read.
var past = time.Unix(1, 0)

// stage is what a connection is doing, as http.Server reports it.
type stage uint8

const (
	fresh    stage = iota // its first request has not been read
	idle                  // between two requests
	busy                  // a request is under way
	hijacked              // a handler has it
)

// streamConn is what *net.TCPConn and *net.UnixConn have in common.
type streamConn interface {
	net.Conn
	syscall.Conn
}

// conn is a connection that can leave its http.Server between two requests. An
// http.Server that waits for the next request is in Read, with a buffer that tells
// how many bytes of that request it holds already; these are the last that were
// received. If none come any more, since a deadline has passed, the connection can
// be handed on with them; to its http.Server it has come to an end.
type conn struct {
	site  *site
	inner streamConn

	mu        sync.Mutex
	stage     stage
	gone      bool // handed on: what http.Server does to it concerns nobody
	known     bool // fixed is decided
	fixed     bool // HTTP/2: neither leaves nor is closed from here
	skipping  bool // line ends before its first request are left over from the one before
	awaiting  bool // the idle timeout goes on, since too little of the next request has come
	quiet     bool // a Read waits that may be interrupted
	borrowed  bool // the deadline of inner is not the one that was set
	turn      bool // it is one of the few that are interrupted just now
	received  int  // bytes since the last stage began
	deadlines int  // how often a read deadline was set since then
	tail      []byte
	tailArray [peekSize]byte
	unread    []byte    // comes first
	deadline  time.Time // of reads
	graceEnd  time.Time
}

// wrap returns c as a connection that can leave, if it is of a kind that can.
func (s *Server) wrap(c net.Conn, site *site, unread []byte, forwarded bool) net.Conn {
	switch c := c.(type) {
	case *net.TCPConn:
		wrapped := &tcpConn{TCPConn: c}
		wrapped.init(site, c, unread, forwarded)
		return wrapped
	case *net.UnixConn:
		wrapped := &unixConn{UnixConn: c}
		wrapped.init(site, c, unread, forwarded)
		return wrapped
	}
	return c
}

func (c *conn) init(site *site, inner streamConn, unread []byte, forwarded bool) {
	c.site, c.inner, c.unread, c.skipping = site, inner, unread, forwarded
	c.tail = c.tailArray[:0]
	if forwarded && !site.secure {
		c.awaitRequest()
	}
	site.server.track(c)
}

// awaitRequest bounds the time for the first bytes of the request for which a
// forwarded connection has come, where http.Server does not: to it this is no idle
// connection.
func (c *conn) awaitRequest() {
	engine := c.site.engine
	if engine.ReadHeaderTimeout > 0 || engine.ReadHeaderTimeout == 0 && engine.ReadTimeout > 0 || engine.IdleTimeout <= 0 {
		return
	}
	c.awaiting = true
	c.deadline = time.Now().Add(engine.IdleTimeout)
	c.inner.SetReadDeadline(c.deadline)
}

// endAwait ends the limit of awaitRequest.
func (c *conn) endAwait() {
	c.awaiting = false
	c.deadline = time.Time{}
	if !c.borrowed {
		c.inner.SetReadDeadline(c.deadline)
	}
}

// note follows the states that http.Server reports for the connection, of which
// outer is the TLS connection on top, if there is one.
func (c *conn) note(outer net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateActive:
		c.stage = busy
	case http.StateIdle:
		c.stage, c.received, c.deadlines = idle, 0, 0
		c.graceEnd = time.Time{}
	case http.StateHijacked:
		c.stage = hijacked
	}
	if secure, ok := outer.(*tls.Conn); ok && !c.known && state == http.StateActive {
		c.known = true
		c.fixed = secure.ConnectionState().NegotiatedProtocol == "h2"
	}
}

// atRest says whether no request is under way when http.Server calls Read with a
// buffer of that size, and how many bytes of the next one it holds.
func (c *conn) atRest(size int) (held int, ok bool) {
	switch {
	case c.fixed:
		return 0, false
	case c.stage == fresh:
		return 0, c.received == 0 || c.site.secure // a handshake may be all that has come
	case c.stage != idle:
		return 0, false
	case c.site.secure:
		return 0, c.received == 0
	}
	held = bufferSize - size
	return held, c.deadlines == 1 && 0 <= held && held < peekSize && held <= len(c.tail)
}

// Read reads, and lets the connection leave where it can.
func (c *conn) read(p []byte) (int, error) {
	for {
		n, err, again := c.readOnce(p)
		if !again {
			return n, err
		}
	}
}

func (c *conn) readOnce(p []byte) (n int, err error, again bool) {
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return 0, io.EOF, false
	}
	held, rest := c.atRest(len(p))
	ended := rest && c.site.server.mode.Load() != serving && c.end(held)
	c.endTurn()
	if ended {
		gone := c.gone
		c.mu.Unlock()
		if gone {
			c.site.server.untrack(c, true) // which locks what comes before c.mu
		}
		return 0, io.EOF, false
	}
	if len(c.unread) > 0 {
		defer c.mu.Unlock()
		n = copy(p, c.unread)
		c.unread = c.unread[n:]
		n = c.receive(p[:n])
		return n, nil, n == 0
	}
	c.quiet = rest
	c.mu.Unlock()

	n, err = c.inner.Read(p)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = false
	if c.borrowed {
		c.borrowed = false
		c.inner.SetReadDeadline(c.deadline)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && (c.deadline.IsZero() || time.Now().Before(c.deadline)) {
			return 0, nil, true
		}
	}
	c.endTurn()
	if n > 0 {
		n = c.receive(p[:n])
		return n, err, n == 0 && err == nil
	}
	if c.awaiting && errors.Is(err, os.ErrDeadlineExceeded) {
		c.inner.Close() // or http.Server would refuse what is no request yet
	}
	return n, err, false
}

// receive accounts for bytes on their way to http.Server, and returns how many
// there are.
func (c *conn) receive(p []byte) int {
	if c.skipping {
		trimmed := bytes.TrimLeft(p, "\r\n")
		copy(p, trimmed)
		p = p[:len(trimmed)]
		c.skipping = len(p) == 0
	}
	n := len(p)
	c.received += n
	if c.awaiting && c.received >= peekSize {
		c.endAwait()
	}
	c.graceEnd = time.Time{}
	if n >= peekSize {
		c.tail = append(c.tailArray[:0], p[n-peekSize:]...)
		c.seePreface(p)
		return n
	}
	for _, b := range p {
		if len(c.tail) == peekSize {
			c.tail = append(c.tailArray[:0], c.tail[1:]...)
		}
		c.tail = append(c.tail, b)
	}
	c.seePreface(c.tail)
	return n
}

// seePreface notices a connection that begins to speak HTTP/2 without TLS, of which
// http.Server does not tell.
func (c *conn) seePreface(start []byte) {
	if c.stage == fresh && !c.known && !c.site.secure && len(start) >= peekSize {
		c.known = true
		c.fixed = string(start[:peekSize]) == "PRI "
	}
}

// end lets a connection at rest go at the end of this generation: to the next one
// or, when Grace is over, altogether. It returns whether it is gone.
func (c *conn) end(held int) bool {
	s := c.site.server
	untouched := c.stage == fresh && c.received == 0
	if s.mode.Load() == leaving && (c.site.canMove() || c.site.managed != nil && untouched) && c.move(held) {
		return true
	}
	if s.mode.Load() != stopping || held > 0 || len(c.unread) > 0 {
		return false
	}
	now := time.Now()
	if c.graceEnd.IsZero() {
		c.graceEnd = now.Add(c.grace())
	}
	if now.Before(c.graceEnd) {
		if c.deadline.IsZero() || c.graceEnd.Before(c.deadline) {
			c.borrowed = true
			c.inner.SetReadDeadline(c.graceEnd)
		}
		return false
	}
	return !sys.Readable(c.inner)
}

// grace is how long a connection at rest is kept when the service stops. One that
// has sent something, but not yet a whole request, may be in a TLS handshake.
func (c *conn) grace() time.Duration {
	if c.stage == fresh && c.received > 0 {
		return max(c.site.server.grace(), handshakeGrace)
	}
	return c.site.server.grace()
}

// move hands the connection on, with the bytes of the next request that were
// received.
func (c *conn) move(held int) bool {
	unread := append(append([]byte(nil), c.tail[len(c.tail)-held:]...), c.unread...)
	unread = bytes.TrimLeft(unread, "\r\n")
	err := c.site.managed.ForwardUntil(c.inner, unread, c.deadline)
	if err != nil {
		if c.site.server.mode.CompareAndSwap(leaving, alone) {
			c.site.server.log().Warn("httpx: connections cannot be handed on any more and end here", "error", err)
		}
		return false
	}
	c.gone = true
	return true
}

// interrupt makes a connection at rest look around, and says whether it is at rest.
// Then it has a turn.
func (c *conn) interrupt() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.quiet || c.borrowed {
		return false
	}
	c.borrowed, c.turn = true, true
	c.inner.SetReadDeadline(past)
	return true
}

// endTurn lets another connection have its turn.
func (c *conn) endTurn() {
	if c.turn {
		c.turn = false
		<-c.site.server.turns
	}
}

func (c *conn) setReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlines++
	if c.awaiting && t.IsZero() {
		return nil // an http.Server without ReadHeaderTimeout begins so
	}
	if t.IsZero() && c.deadline.IsZero() {
		return nil // http.Server does that twice in each request
	}
	c.deadline = t
	c.awaiting = false
	if c.borrowed || c.gone {
		return nil // it is set when the Read that waits has ended
	}
	return c.inner.SetReadDeadline(t)
}

func (c *conn) close() error {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone {
		return nil
	}
	err := c.inner.Close()
	c.site.server.untrack(c, false)
	return err
}

// NetConn returns the connection beneath. Deadlines are set on this one, not on
// that.
func (c *conn) NetConn() net.Conn { return c.inner }

// Unread returns what comes first from Read: bytes that the generation before has
// received.
func (c *conn) Unread() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unread
}

// Leave tells that the connection beneath has got another owner, such as
// [mitosis.Registry.AddConn]. What is done to this one from now on has no effect.
func (c *conn) Leave() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.site.server.untrack(c, false)
}
