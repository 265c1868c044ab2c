package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
)

const (
	goodbyeTimeout = 10 * time.Second // for a client that leaves, to take the rest and to close
	stallTimeout   = time.Minute      // for a client to take some of what waits for it
	tooSlow        = "too slow, the queue is full"
	tooLong        = "a line is too long"
	lost           = "connection lost"
)

// A client is somebody who is connected. What is exported travels.
type client struct {
	Nick, Room string
	Out        []byte    // the queue: bytes that no Write has taken
	Until      time.Time // not zero: the client leaves, and has time until then

	name    string
	conn    *mitosis.Conn
	changed sync.Cond // for the writer: something to write, or the end
	writing bool      // a Write is under way, of a beginning of Out; nobody but the writer may shorten Out
	gone    bool      // the next generation has the connection
	ended   int       // how many of reader and writer have
}

func (c *client) leaving() bool { return !c.Until.IsZero() }

// read deals with one line after the other. When the client leaves it reads on until the end, and does nothing about
// it: otherwise the line with which it left would not count as dealt with, and closing with something unread could
// cost the client our last words.
func (s *server) read(c *client, leaving bool) {
	defer s.running.Done()
	for !leaving {
		leaving = s.deal(c)
	}
	var err error
	for scrap := make([]byte, 512); err == nil; {
		_, err = c.conn.Read(scrap)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, mitosis.ErrSuperseded) {
		c.gone = true
		c.changed.Signal()
		return
	}
	s.end(c)
}

// deal reads one line and deals with it, and says whether that was all. It uses ReadSlice, whose buffer bounds the
// length of a line.
func (s *server) deal(c *client) (last bool) {
	line, err := c.conn.Reader().ReadSlice('\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, mitosis.ErrSuperseded):
		return true // what is in line travels
	case c.leaving():
	case errors.Is(err, bufio.ErrBufferFull):
		s.leave(c, tooLong)
	case err == nil, errors.Is(err, io.EOF) && len(line) > 0:
		s.obey(c, string(line))
	default:
		s.leave(c, "")
	}
	return c.leaving()
}

// write sends what is in the queue; see server for how it stands still during a cut.
func (s *server) write(c *client) {
	defer s.running.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for !c.gone && (s.halted || len(c.Out) == 0 && !c.leaving()) {
			c.changed.Wait()
		}
		switch {
		case c.gone:
			return
		case len(c.Out) == 0:
			c.conn.CloseWrite() // the reader waits for the other side to do the same
			s.end(c)
			return
		}
		if err := s.writeOut(c); errors.Is(err, mitosis.ErrSuperseded) {
			return
		} else if err != nil {
			s.leave(c, lost)
			c.Out, c.Until = nil, time.Now()
			c.conn.SetReadDeadline(c.Until) // the reader ends
		}
	}
}

// writeOut writes what is in the queue now. It releases mu meanwhile. That halt has interrupted it is no error.
func (s *server) writeOut(c *client) error {
	p, deadline := c.Out, c.Until
	if !c.leaving() {
		deadline = time.Now().Add(stallTimeout)
	}
	c.writing = true
	s.writing++
	c.conn.SetWriteDeadline(deadline)
	s.mu.Unlock()
	n, err := c.conn.Write(p)
	s.mu.Lock()
	c.conn.SetWriteDeadline(time.Time{}) // it would bound what the library sends later, too
	c.writing = false
	if s.writing--; s.writing == 0 {
		s.rested.Broadcast()
	}
	if c.Out = c.Out[n:]; len(c.Out) == 0 {
		c.Out = nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && (n > 0 || time.Now().Before(deadline)) {
		return nil
	}
	return err
}

// end notes that the reader or the writer has ended. With the second one the connection and the client end in one step:
// no generation has one without the other.
func (s *server) end(c *client) {
	if c.ended++; c.ended == 2 {
		c.conn.Close()
		delete(s.memory.Clients, c.name)
	}
}

// queue puts a line into a client's queue, and says whether there was room for it.
func (s *server) queue(c *client, line string) bool {
	switch {
	case c.leaving():
		return true
	case len(c.Out)+len(line)+1 > s.limit:
		return false
	}
	c.Out = append(append(c.Out, line...), '\n')
	c.changed.Signal()
	return true
}

// send is for an answer to one client.
func (s *server) send(c *client, line string) {
	if !s.queue(c, line) {
		s.leave(c, tooSlow)
	}
}

// leave makes a client leave: the room at once, the connection when it has taken what is in its queue, with our last
// words at the end.
func (s *server) leave(c *client, reason string) {
	if c.leaving() {
		return
	}
	last, how := "* goodbye\n", ""
	if reason != "" {
		last, how = fmt.Sprintf("* goodbye: %s\n", reason), fmt.Sprintf(" (%s)", reason)
	}
	c.Out = append(c.Out, last...)
	c.Until = time.Now().Add(goodbyeTimeout)
	c.conn.SetReadDeadline(c.Until)
	if c.writing && !s.halted {
		c.conn.SetWriteDeadline(c.Until)
	}
	c.changed.Signal()
	s.withdraw(c, how)
}

// withdraw takes a client out of the chat.
func (s *server) withdraw(c *client, how string) {
	delete(s.nicks, strings.ToLower(c.Nick))
	if c.Room != "" {
		s.exit(c, how)
	}
}
