package main

import (
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/bhuthesh/mitosis"
)

const (
	goodbyeTimeout = 10 * time.Second // for a client that leaves, to take the rest and to close
	stallTimeout   = time.Minute      // for a client to take some of what waits for it
)

// A client is somebody who is connected. What is exported travels.
type client struct {
	Name, Room string
	Message    []byte    // the frames that have come of a message of several
	Opening    ws.OpCode // of the first one; OpContinuation is none
	Out        []byte    // the queue: bytes that no Write has got
	Until      time.Time // not zero: the client leaves, and has time until then

	name    string
	conn    *mitosis.Conn
	changed sync.Cond // for the writer: something to write, or the end
	writing int       // bytes of the Write under way
	gone    bool      // the next generation has the connection
	ended   int       // how many of reader and writer have
}

func (c *client) leaving() bool { return !c.Until.IsZero() }

// read deals with one frame after the other, and says so with Mark: what has been read of the next one travels when a
// cut comes. When the client leaves it reads on until the end, and does nothing about it, since closing with something
// unread could cost the client our last words.
func (s *server) read(c *client, leaving bool) {
	defer s.running.Done()
	err := c.conn.Mark(nil) // from now on nothing counts as dealt with for any other reason
	for err == nil && !leaving {
		var frame ws.Frame
		frame, err = readFrame(c.conn.Reader(), c.Opening != ws.OpContinuation, s.message-len(c.Message))
		if isSuperseded(err) {
			break
		}
		leaving = s.deal(c, frame, err)
		if err = c.conn.Mark(nil); leaving {
			break
		}
	}
	for scrap := make([]byte, 4096); err == nil; {
		if _, err = c.conn.Reader().Read(scrap); err == nil {
			err = c.conn.Mark(nil)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if isSuperseded(err) {
		c.gone = true
		c.changed.Signal()
		return
	}
	s.end(c)
}

// deal deals with a frame or with the error that came instead, and says whether it was the last one.
func (s *server) deal(c *client, frame ws.Frame, err error) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.leaving() {
		return true
	}
	if err == nil {
		err = s.obey(c, frame)
	}
	if err != nil {
		s.leave(c, err)
	}
	return c.leaving()
}

// obey does what a frame says. An error is how the client leaves.
func (s *server) obey(c *client, frame ws.Frame) error {
	switch opcode := frame.Header.OpCode; opcode {
	case ws.OpPing:
		if !s.queue(c, compile(ws.NewPongFrame(frame.Payload))) {
			return errTooSlow
		}
		return nil
	case ws.OpPong:
		return nil
	case ws.OpClose:
		return closing(frame.Payload)
	case ws.OpBinary:
		return errNotText
	case ws.OpText:
		c.Opening = opcode
	}
	c.Message = append(c.Message, frame.Payload...)
	if !frame.Header.Fin {
		return nil
	}
	text := c.Message
	c.Message, c.Opening = nil, ws.OpContinuation
	if !utf8.Valid(text) {
		return errNotUTF8
	}
	s.announce(s.room(c.Room), c.Name+" "+string(text))
	return nil
}

// write sends what is in the queue.
func (s *server) write(c *client) {
	defer s.running.Done()
	for s.awaitOut(c) {
		err := s.writeOut(c)
		s.mu.Lock()
		c.writing = 0
		if err != nil && !isSuperseded(err) {
			s.leave(c, err)
			c.Out, c.Until = nil, time.Now()
			c.conn.SetReadDeadline(c.Until) // the reader ends
		}
		s.mu.Unlock()
		if isSuperseded(err) {
			return
		}
	}
}

// awaitOut waits until something is to be written, and returns false when there will be nothing more.
func (s *server) awaitOut(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !c.gone && len(c.Out) == 0 && !c.leaving() {
		c.changed.Wait()
	}
	if c.gone {
		return false
	}
	if len(c.Out) == 0 {
		c.conn.CloseWrite() // the reader waits for the other side to do the same
		s.end(c)
		return false
	}
	return true
}

// writeOut writes what is in the queue now. No cut comes in between; see server.
func (s *server) writeOut(c *client) error {
	s.rest.RLock()
	defer s.rest.RUnlock()
	s.mu.Lock()
	out, deadline := c.Out, c.Until
	if !c.leaving() {
		deadline = time.Now().Add(stallTimeout)
	}
	c.Out, c.writing = nil, len(out)
	s.mu.Unlock()
	c.conn.SetWriteDeadline(deadline)
	defer c.conn.SetWriteDeadline(time.Time{}) // it would bound what the library sends later, too
	_, err := c.conn.Write(out)
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

// queue puts a frame into a client's queue, and says whether there was room for it.
func (s *server) queue(c *client, frame []byte) bool {
	switch {
	case c.leaving():
		return true
	case c.writing+len(c.Out)+len(frame) > s.config.queue:
		return false
	}
	c.Out = append(c.Out, frame...)
	c.changed.Signal()
	return true
}

// leave makes a client leave: the room at once, the connection when it has taken what is in its queue, with a close
// frame at the end.
func (s *server) leave(c *client, why error) {
	if c.leaving() {
		return
	}
	c.Out = append(c.Out, closeFrame(why)...)
	c.Until = time.Now().Add(goodbyeTimeout)
	c.conn.SetReadDeadline(c.Until)
	c.changed.Signal()
	s.exit(c)
}
