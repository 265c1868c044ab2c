package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
)

// connPrefix is that of the names of connections.
const connPrefix = "ws/"

// A memory is what the next generation has to know.
type memory struct {
	LastID  int
	Clients map[string]*client // by the name of their connection
	Rooms   map[string]*room   // those with somebody in them
}

// A room is where people hear each other.
type room struct {
	Sequence uint64 // the number of the last message

	members map[*client]bool
	names   map[string]bool
}

// A server is one generation of the chat. All that happens in the chat happens under mu, in one step each: a message
// that somebody sends has a number and is in the queue of each member, or nothing of this is so yet.
//
// A client's queue is a part of the memory. A writer takes all that is in it and gives it to Write, without mu, so that
// a slow client stops nobody else. In between the bytes are neither in the queue nor on the connection, and a memory
// that was saved then would lack them. So a writer has rest locked for reading from before it takes the bytes until
// Write has them, and a cut locks it for writing. It does not wait for slow clients: when a cut has begun, Write returns
// at once, and what the peer has not taken travels with the connection.
type server struct {
	config
	registry *mitosis.Registry
	listener *mitosis.Listener
	running  sync.WaitGroup // a reader and a writer for each client

	rest sync.RWMutex // comes before mu

	mu       sync.Mutex
	memory   memory
	stopping bool
}

// A cutLock is held during a cut.
type cutLock struct{ server *server }

func (l cutLock) Lock() {
	l.server.rest.Lock()
	l.server.mu.Lock()
}

func (l cutLock) Unlock() {
	l.server.mu.Unlock()
	l.server.rest.Unlock()
}

func newServer(m *mitosis.Registry, c config) (*server, error) {
	s := &server{config: c, registry: m, memory: memory{Clients: map[string]*client{}, Rooms: map[string]*room{}}}
	ln, err := m.Listen("web", "tcp", c.address)
	if err != nil {
		return nil, err
	}
	s.listener = ln.(*mitosis.Listener)
	return s, m.State("chat", mitosis.Locked(cutLock{s}, mitosis.Gob(&s.memory)))
}

// start goes on with those who are here, after Ready.
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
		if c.conn == nil {
			missing = append(missing, c)
			delete(s.memory.Clients, name)
		} else if !c.leaving() {
			s.enter(c)
		}
	}
	for _, c := range missing {
		if !c.leaving() {
			s.room(c.Room).names[c.Name] = true
			s.exit(c)
		}
	}
	if s.registry.Generation() > 1 {
		for _, r := range s.memory.Rooms {
			s.announce(r, fmt.Sprintf("* generation %d, process %d, goes on", s.registry.Generation(), os.Getpid()))
		}
	}
	for _, c := range s.memory.Clients {
		s.serve(c)
	}
}

// add makes a client of a connection, with mu held, so that no cut comes between the connection and the client. AddConn
// does not wait then, as a cut that needs mu has not come that far.
func (s *server) add(g guest) error {
	id := s.memory.LastID + 1
	conn, err := s.registry.AddConn(connPrefix+strconv.Itoa(id), g.conn, g.unread)
	if err != nil {
		return err
	}
	s.memory.LastID = id
	c := &client{name: conn.Name(), conn: conn, Name: g.name, Room: g.room, Out: g.answer}
	if c.Name == "" {
		c.Name = "guest" + strconv.Itoa(id)
	}
	for s.room(c.Room).names[c.Name] {
		c.Name += "_"
	}
	c.changed.L = &s.mu
	s.memory.Clients[c.name] = c
	s.enter(c)
	s.announce(s.room(c.Room), "* "+c.Name+" has joined")
	s.serve(c)
	return nil
}

// serve starts the reader and the writer of a client.
func (s *server) serve(c *client) {
	s.running.Add(2)
	go s.read(c, c.leaving())
	go s.write(c)
}

// stop ends the chat. Clients get what waits for them, within limits.
func (s *server) stop(timeout time.Duration) {
	s.mu.Lock()
	s.stopping = true
	for _, c := range s.memory.Clients {
		s.leave(c, errStopping)
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
		r.members, r.names = map[*client]bool{}, map[string]bool{}
	}
	return r
}

func (s *server) enter(c *client) {
	r := s.room(c.Room)
	r.members[c] = true
	r.names[c.Name] = true
}

// exit takes a client out of its room. The last one takes the room along.
func (s *server) exit(c *client) {
	r := s.room(c.Room)
	delete(r.members, c)
	delete(r.names, c.Name)
	if len(r.members) == 0 {
		delete(s.memory.Rooms, c.Room)
	} else if !s.stopping { // then all leave
		s.announce(r, "* "+c.Name+" has left")
	}
}

// announce sends a message to the members of a room. Those whose queue is full leave, but not before all have got it,
// so that all see the same order.
func (s *server) announce(r *room, text string) {
	r.Sequence++
	frame := textFrame(strconv.FormatUint(r.Sequence, 10) + " " + text)
	var slow []*client
	for c := range r.members {
		if !s.queue(c, frame) {
			slow = append(slow, c)
		}
	}
	for _, c := range slow {
		s.leave(c, errTooSlow)
	}
}

// status is what the program says about itself.
type status struct {
	Generation int `json:"generation"`
	PID        int `json:"pid"`
	Clients    int `json:"clients"`
}

func (s *server) status() status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return status{s.registry.Generation(), os.Getpid(), len(s.memory.Clients)}
}

// isSuperseded says whether the next generation has what err is about.
func isSuperseded(err error) bool { return errors.Is(err, mitosis.ErrSuperseded) }
