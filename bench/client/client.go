package client

import (
	"bufio"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// client is one client and its only connection.
type client struct {
	load   *Load
	kind   Kind
	number int
	random *rand.Rand

	conn   net.Conn // nil while there is none
	reader *bufio.Reader
	dials  int
	made   int        // requests composed so far
	again  []*request // pipelined requests that are to be sent once more
}

func (c *client) run() {
	defer c.hangUp()
	// Clients that start together would stay together.
	c.wait(c.upTo(200 * time.Millisecond))
	if c.kind == Parked {
		c.single()
		c.park()
		c.single()
		return
	}
	for c.wanted() {
		if c.kind == Pipelined {
			c.batch()
		} else {
			c.single()
		}
		c.rest()
	}
}

// wanted tells whether there is anything left to do.
func (c *client) wanted() bool {
	if len(c.again) > 0 {
		return true
	}
	limit := c.load.options.Requests
	return c.load.context.Err() == nil && (limit <= 0 || c.made < limit)
}

// single makes one request and waits for its answer.
func (c *client) single() {
	r := c.compose()
	c.load.count(c.kind, func(n *Counts) { n.Requests++ })
	start := time.Now()
	if err := c.dial(); err != nil {
		c.load.failed(c.kind, reasonFor(err)+" while dialling", start, time.Now())
		return
	}
	c.deadline()
	for _, p := range r.pieces {
		time.Sleep(p.pause)
		// Whatever the write says, an answer may have come before.
		if _, err := c.conn.Write(p.bytes); err != nil {
			break
		}
	}
	c.deadline()
	got, err := readAnswer(c.reader, r)
	if err != nil {
		c.load.failed(c.kind, err.Error(), start, time.Now())
		c.hangUp()
		return
	}
	c.load.answered(c.kind, got.process, start, time.Now())
	switch {
	case r.closes:
		c.expectEnd()
	case got.closes:
		c.load.event(c.kind, Told)
		c.hangUp()
	}
}

// rest is the time between two requests.
func (c *client) rest() {
	pause := c.pause()
	if pause == 0 {
		return
	}
	end := time.Now().Add(pause)
	if c.conn != nil {
		_ = c.conn.SetReadDeadline(end)
		if c.silence() {
			return
		}
	}
	c.wait(time.Until(end))
}

// park rests until the load ends.
func (c *client) park() {
	if conn := c.conn; conn != nil {
		_ = conn.SetReadDeadline(time.Time{})
		defer context.AfterFunc(c.load.context, func() { _ = conn.SetReadDeadline(time.Now()) })()
		if c.silence() {
			return
		}
	}
	<-c.load.context.Done()
}

// silence reads until the deadline, and tells whether nothing came. A connection that the server closes in
// the meantime was closed while idle.
func (c *client) silence() bool {
	_, err := c.reader.Peek(1)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true
	case err == nil:
		c.stray()
	default:
		c.load.event(c.kind, ClosedIdle)
	}
	c.hangUp()
	return false
}

// pause returns the length of the next rest.
func (c *client) pause() time.Duration {
	switch c.kind {
	case Busy:
		return c.upTo(c.load.options.Pause)
	case Idle:
		return 500*time.Millisecond + c.upTo(time.Second)
	case Short:
		return c.upTo(40 * time.Millisecond)
	default:
		return c.upTo(100 * time.Millisecond)
	}
}

func (c *client) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(c.random.Int64N(int64(d)))
}

// wait lets time pass, but no longer than the load lasts.
func (c *client) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.load.context.Done():
	}
}

// dial makes a connection if the client has none.
func (c *client) dial() error {
	if c.conn != nil {
		return nil
	}
	if c.dials > 0 && c.kind.KeepsAlive() {
		c.load.event(c.kind, Redialled)
	}
	c.dials++
	conn, err := net.DialTimeout("tcp", c.load.options.Address, c.load.options.Timeout)
	if err != nil {
		// A server that is not there must not make the clients spin.
		c.wait(10 * time.Millisecond)
		return err
	}
	c.conn, c.reader = conn, bufio.NewReader(conn)
	return nil
}

// deadline limits the time of what comes next: a request to be written, an answer to be read.
func (c *client) deadline() {
	_ = c.conn.SetDeadline(time.Now().Add(c.load.options.Timeout))
}

// expectEnd waits for the end of a connection that was asked to end.
func (c *client) expectEnd() {
	switch _, err := c.reader.Peek(1); {
	case err == nil:
		c.stray()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.load.count(c.kind, func(n *Counts) { n.LeftOpen++ })
	}
	c.hangUp()
}

// stray counts bytes that arrived although nothing was asked.
func (c *client) stray() {
	now := time.Now()
	c.load.count(c.kind, func(n *Counts) { n.Requests++ })
	c.load.failed(c.kind, "bytes that nobody asked for", now, now)
}

func (c *client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn, c.reader = nil, nil
	}
}
