package soak

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	chatters     = 4
	slowChatters = 2
)

// crowd is how many there are of each kind of web client, and how long they pause.
type crowd struct {
	network string
	n       int
	pause   time.Duration
	work    func(*soak, *webClient) error
}

var crowds = []crowd{
	{"tcp", 4, 20 * time.Millisecond, (*soak).poster},
	{"unix", 2, 20 * time.Millisecond, (*soak).poster},
	{"tcp", 6, 3 * time.Second, (*soak).poster},
	{"unix", 2, 3 * time.Second, (*soak).poster},
	{"tcp", 2, 50 * time.Millisecond, (*soak).uploader},
	{"unix", 1, 50 * time.Millisecond, (*soak).uploader},
	{"tcp", 3, 20 * time.Millisecond, (*soak).pipeliner},
	{"unix", 1, 20 * time.Millisecond, (*soak).pipeliner},
	{"tcp", 3, 20 * time.Millisecond, (*soak).stutterer},
	{"unix", 1, 20 * time.Millisecond, (*soak).stutterer},
	{"tcp", 3, 50 * time.Millisecond, (*soak).streamer},
	{"unix", 1, 50 * time.Millisecond, (*soak).streamer},
}

func (s *soak) webConnections() (n int) {
	for _, c := range crowds {
		n += c.n
	}
	return n + 1 // control
}

// startClients starts everybody who talks with the service. Each connection is made
// once, except those of visitors.
func (s *soak) startClients() bool {
	addresses := map[string]string{"tcp": s.chain.addresses[0], "unix": s.socket()}
	s.chat = s.chain.addresses[1]
	dial := func(network, address string) net.Conn {
		c, err := net.Dial(network, address)
		if err != nil {
			s.fail("dial: %v", err)
			return nil
		}
		return s.keep(c)
	}
	var err error
	if s.control, err = dialWeb("tcp", addresses["tcp"], s.newRandom()); err != nil {
		s.fail("control: %v", err)
		return false
	}
	s.keep(s.control.conn)
	for _, crowd := range crowds {
		for range crowd.n {
			c, err := dialWeb(crowd.network, addresses[crowd.network], s.newRandom())
			if err != nil {
				s.fail("dial: %v", err)
				return false
			}
			s.keep(c.conn)
			s.goOn(crowd.network, crowd.pause, func() error { return crowd.work(s, c) })
		}
		random := s.newRandom()
		s.goOn("visit "+crowd.network, time.Second, func() error { return s.visit(crowd.network, addresses[crowd.network], random) })
	}
	for i := range chatters + slowChatters {
		t, err := s.dialChat(s.newRandom())
		if err != nil {
			s.fail("chat: %v", err)
			return false
		}
		if t.slow = i >= chatters; t.slow {
			t.conn.(*net.TCPConn).SetReadBuffer(128 << 10)
		}
		s.keep(t.conn)
		s.goOn("chat", 20*time.Millisecond, func() error { return s.talk(t) })
	}
	random := s.newRandom()
	s.goOn("brief chat", 200*time.Millisecond, func() error { return s.chatBriefly(random) })
	udp, numbers, number := dial("udp", s.chain.addresses[2]), s.newRandom(), uint64(0)
	if udp == nil {
		return false
	}
	s.goOn("datagrams", 20*time.Millisecond, func() error { return s.exchangeDatagrams(udp, &number, numbers) })
	select {
	case c := <-s.questioner.client:
		t := newTalker(s.keep(c), s.newRandom(), &s.figures.questions)
		s.goOn("questions", 20*time.Millisecond, func() error { return s.talk(t) })
	case <-time.After(bound):
		s.fail("the service does not dial the line server")
	}
	return !s.failed()
}

// keep notes a connection, so that a failure ends those who wait on it.
func (s *soak) keep(c net.Conn) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return c
}

// goOn does something again and again.
func (s *soak) goOn(what string, pause time.Duration, exchange func() error) {
	random := s.newRandom()
	s.working.Go(func() {
		for s.ctx.Err() == nil {
			if err := s.exchange(exchange); err != nil && !errors.Is(s.ctx.Err(), context.Canceled) {
				s.fail("%s: %v", what, err)
				return
			}
			select {
			case <-time.After(time.Duration(random.Int64N(int64(pause)))):
			case <-s.ctx.Done():
			}
		}
	})
}

func (s *soak) exchange(f func() error) error {
	s.pace.RLock()
	defer s.pace.RUnlock()
	return f()
}
