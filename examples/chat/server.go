package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
)

const (
	connPrefix  = "client/"              // of the names of connections
	lobby       = "lobby"                // where everybody begins
	acceptPause = 100 * time.Millisecond // when there are no descriptors left
)

// A memory is what the next generation has to know.
type memory struct {
	LastID  int
	Clients map[string]*client // by the name of their connection
	Rooms   map[string]*room   // those with somebody in them
}

// A room is where people hear each other.
type room struct {
	History []string

	members map[*client]bool
}

// A server is one generation of the chat. All that happens in the chat happens under mu, in one step each: a line that
// somebody says is in the history and in the queue of each member, or nowhere yet.
//
// # What is sent exactly once
//
// A client's queue, client.Out, holds the bytes that no Write has taken. It is part of the memory. Its writer calls
// Write without holding mu, so that a slow client stops nobody else, and takes from the queue what Write says it has
// taken, under mu. In between the bytes are in the queue and perhaps on their way, too: a memory that was saved at
// that moment could be wrong in both directions. If the Write has begun, the bytes are sent and would be repeated; if
// they were left out of the memory and the Write, a moment late, is refused by the library, they would be lost.
//
// So no Write is under way when the memory is saved. cut.Freeze, which is called when no more lines are being read and
// before the library shuts the connections for writing:
//
//  1. sets halted, and from then on no writer begins a Write;
//  2. gives each Write under way a deadline in the past. Most have returned by then, because the library takes along
//     what slow clients do not take, but one may wait behind what was taken along before. Each returns and says how
//     many bytes it has taken: all of them, or some, or none. That these are sent, by whichever generation, is what
//     the library promises;
//  3. waits until each writer has taken just these bytes from its queue;
//  4. locks mu for the rest of the cut.
//
// A byte is then either with the library or in the saved queue, and never in both, even in the middle of a line. If the
// split fails, Thaw lets the writers go on with the same queues.
//
// # How much waits for a client
//
// The queue holds as many bytes as -limit says, and our last words. What the library has taken along does not count:
// somebody who takes nothing at all can have that much more waiting after each restart, until stallTimeout is over.
type server struct {
	config
	registry *mitosis.Registry
	listener *mitosis.Listener
	running  sync.WaitGroup // accept, and a reader and a writer for each client

	mu       sync.Mutex
	memory   memory
	nicks    map[string]*client // by nick in lower case
	stopping bool
	halted   bool      // a cut is going on, no Write may begin
	writing  int       // how many are under way
	rested   sync.Cond // it has become 0
}

func newServer(m *mitosis.Registry, c config) (*server, error) {
	s := &server{
		config: c, registry: m, nicks: map[string]*client{},
		memory: memory{Clients: map[string]*client{}, Rooms: map[string]*room{}},
	}
	s.rested.L = &s.mu
	ln, err := m.Listen("chat", "tcp", c.address)
	if err != nil {
		return nil, err
	}
	s.listener = ln.(*mitosis.Listener)
	locked := mitosis.Locked(&s.mu, mitosis.Gob(&s.memory)).(mitosis.Freezer)
	return s, m.State("chat", cut{locked, s})
}

// A cut is the memory as a state that is saved while no Write is under way.
type cut struct {
	mitosis.Freezer // locks mu

	server *server
}

func (c cut) Freeze() {
	c.server.halt()
	c.Freezer.Freeze()
}

func (c cut) Thaw() {
	c.Freezer.Thaw()
	c.server.resume()
}

// halt brings the writers to rest.
func (s *server) halt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halted = true
	for _, c := range s.memory.Clients {
		if c.writing {
			c.conn.SetWriteDeadline(time.Unix(1, 0)) // the writer puts it back
		}
	}
	for s.writing > 0 {
		s.rested.Wait()
	}
}

// resume undoes halt.
func (s *server) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halted = false
	for _, c := range s.memory.Clients {
		if len(c.Out) > 0 || c.leaving() {
			c.changed.Signal()
		}
	}
}

// start begins to serve, after Ready: first those who are here, then those who come.
func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.registry.Conns(connPrefix) {
		if c := s.memory.Clients[conn.Name()]; c != nil {
			c.conn = conn
			continue
		}
		slog.Warn("a connection of nobody", "name", conn.Name())
		conn.Close()
	}
	var missing []*client // because the old process died half-way through the cut
	for name, c := range s.memory.Clients {
		c.name, c.changed.L = name, &s.mu
		switch {
		case c.conn == nil:
			missing = append(missing, c)
			delete(s.memory.Clients, name)
		case !c.leaving():
			s.nicks[strings.ToLower(c.Nick)] = c
			s.room(c.Room).members[c] = true
		}
	}
	for _, c := range missing {
		if !c.leaving() {
			s.exit(c, " ("+lost+")")
		}
	}
	for _, c := range s.memory.Clients {
		s.serve(c)
	}
	s.running.Add(1)
	go s.accept()
}

func (s *server) accept() {
	defer s.running.Done()
	for {
		c, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			slog.Warn("accept", "error", err)
			time.Sleep(acceptPause)
		default:
			s.admit(c)
		}
	}
}

// admit lets a connection in.
func (s *server) admit(c net.Conn) {
	err := s.add(c)
	if errors.Is(err, mitosis.ErrSuperseded) { // it came too late to travel with the others
		err = s.listener.Forward(c, nil)
	}
	if err != nil {
		slog.Warn("a connection was turned away", "peer", c.RemoteAddr(), "error", err)
		c.Close()
	}
}

// add makes a client of a connection. It holds mu over AddConn, so that no cut comes between the connection and the
// client; AddConn does not wait then, as a cut that needs mu has not come that far.
func (s *server) add(accepted net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return net.ErrClosed
	}
	id := s.memory.LastID + 1
	conn, err := s.registry.AddConn(connPrefix+strconv.Itoa(id), accepted)
	if err != nil {
		return err
	}
	s.memory.LastID = id
	c := &client{name: conn.Name(), conn: conn, Nick: s.guest(id)}
	c.changed.L = &s.mu
	s.memory.Clients[c.name] = c
	s.nicks[strings.ToLower(c.Nick)] = c
	s.send(c, fmt.Sprintf("* welcome, %s; %s", c.Nick, usage))
	if !c.leaving() {
		s.enter(c, lobby)
	}
	s.serve(c)
	return nil
}

// guest returns a nick that is free.
func (s *server) guest(id int) string {
	nick := "guest" + strconv.Itoa(id)
	for s.nicks[nick] != nil {
		nick += "_"
	}
	return nick
}

// serve starts the reader and the writer of a client.
func (s *server) serve(c *client) {
	s.running.Add(2)
	go s.read(c, c.leaving())
	go s.write(c)
}

// count returns how many clients there are.
func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.memory.Clients)
}

// stop ends the chat. Clients get what waits for them, within limits.
func (s *server) stop(timeout time.Duration) {
	s.listener.Close()
	s.mu.Lock()
	s.stopping = true
	for _, c := range s.memory.Clients {
		s.leave(c, "the server stops")
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.running.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(timeout):
	}
}

// room returns the room of that name, with mu held as in all that follows.
func (s *server) room(name string) *room {
	r := s.memory.Rooms[name]
	if r == nil {
		r = &room{}
		s.memory.Rooms[name] = r
	}
	if r.members == nil {
		r.members = map[*client]bool{}
	}
	return r
}

// enter puts a client into a room, and tells everybody there.
func (s *server) enter(c *client, name string) {
	c.Room = name
	r := s.room(name)
	r.members[c] = true
	s.announce(r, fmt.Sprintf("* %s has joined %s", c.Nick, name))
}

// exit takes a client out of its room. The last one takes the room along.
func (s *server) exit(c *client, how string) {
	name, r := c.Room, s.room(c.Room)
	c.Room = ""
	delete(r.members, c)
	if len(r.members) == 0 {
		delete(s.memory.Rooms, name)
		return
	}
	s.announce(r, fmt.Sprintf("* %s has left %s%s", c.Nick, name, how))
}

// say lets everybody in the client's room hear and remember a line.
func (s *server) say(c *client, text string) {
	r := s.room(c.Room)
	line := "<" + c.Nick + "> " + text
	r.History = append(r.History, line)
	if n := len(r.History) - s.history; n > 0 {
		clear(r.History[:n])
		r.History = r.History[n:]
	}
	s.announce(r, line)
}

// announce sends a line to the members of a room. Those whose queue is full leave, but not before all have got it, so
// that all see the same order.
func (s *server) announce(r *room, line string) {
	var slow []*client
	for c := range r.members {
		if !s.queue(c, line) {
			slow = append(slow, c)
		}
	}
	for _, c := range slow {
		s.leave(c, tooSlow)
	}
}
