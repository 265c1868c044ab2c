package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
)

// The protocol of all connections is one of lines. "12 3 0 ..." is line number 12,
// which wants three lines as its answer, each longer by 0 bytes than it need be.
// The lines of an answer are "12 40 <checksum of the line> ...": 40 is the number of
// this line among all that were ever sent on the connection.

// unaskedEvery is seldom enough for a peer that does not read for a minute.
const unaskedEvery = 50 * time.Millisecond

// count is what has been said on one connection.
type count struct{ In, Out uint64 }

// ledger is a count with its lock.
type ledger struct {
	mu    sync.Mutex
	Count count
}

// shard is a part of the chat.
type shard struct {
	mu    sync.Mutex
	Book  book
	conns map[string]*mitosis.Conn // not part of the state
}

// book is the state of a shard. It agrees with the bytes on its connections.
type book struct {
	Peers map[string]*count
	Lines uint64
}

func (s *service) shardOf(name string) *shard {
	return &s.shards[crc32.ChecksumIEEE([]byte(name))%uint32(len(s.shards))]
}

// takeUp goes on with the connections of the generation before.
func (s *service) takeUp() error {
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock()
		if shard.Book.Peers == nil {
			shard.Book.Peers = map[string]*count{}
		}
		shard.conns = map[string]*mitosis.Conn{}
		for name := range shard.Book.Peers {
			c, err := s.m.Conn(name)
			if errors.Is(err, mitosis.ErrNotFound) {
				delete(shard.Book.Peers, name) // it was not added yet, or already closed
				continue
			}
			if err != nil {
				shard.mu.Unlock()
				return err
			}
			s.work.Go(func() { s.serveNextPeers(c) })
		}
		shard.mu.Unlock()
	}
	c, err := s.m.Dial(context.Background(), "lines", "tcp", s.Lines)
	if errors.Is(err, mitosis.ErrSuperseded) {
		return nil
	}
	if err != nil {
		return err
	}
	s.work.Go(func() { s.answerQuestions(c) })
	return nil
}

// acceptPeers accepts those who want to chat.
func (s *service) acceptPeers(l *mitosis.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			broken("accept: %v", err)
			return
		}
		c.(*net.TCPConn).SetWriteBuffer(64 << 10)
		name := "chat " + c.RemoteAddr().String()
		shard := s.shardOf(name)
		shard.mu.Lock()
		shard.Book.Peers[name] = &count{}
		shard.mu.Unlock()
		managed, err := s.m.AddConn(name, c)
		if errors.Is(err, mitosis.ErrSuperseded) {
			err = l.Forward(c, nil)
		}
		if err != nil {
			broken("chat: %v", err)
			c.Close()
		} else if managed != nil {
			s.work.Go(func() { s.serveNextPeers(managed) })
		}
	}
}

// serveNextPeers chats until the peer goes or the next generation has it.
func (s *service) serveNextPeers(c *mitosis.Conn) {
	shard := s.shardOf(c.Name())
	shard.mu.Lock()
	shard.conns[c.Name()] = c
	shard.mu.Unlock()
	for {
		line, err := c.Reader().ReadString('\n')
		if err == nil {
			err = shard.answer(c, line)
		}
		if err == nil {
			continue
		}
		if over(err) {
			return
		}
		if err != io.EOF || line != "" {
			broken("%s: %v after %q", c.Name(), err, line)
		}
		if err := c.Close(); err == nil {
			shard.mu.Lock()
			delete(shard.Book.Peers, c.Name())
			delete(shard.conns, c.Name())
			shard.mu.Unlock()
		}
		return
	}
}

func (s *shard) answer(c *mitosis.Conn, line string) error {
	var number uint64
	var lines, size int
	if _, err := fmt.Sscan(line, &number, &lines, &size); err != nil {
		return fmt.Errorf("%.80q: %w", line, err)
	}
	for i := range lines {
		if err := s.answerOnce(c, line, number, size, i == 0); err != nil {
			return err
		}
	}
	return nil
}

// answerOnce writes a line of an answer and counts it, both under the lock.
func (s *shard) answerOnce(c *mitosis.Conn, line string, number uint64, size int, first bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	peer := s.Book.Peers[c.Name()]
	if first {
		peer.In++
		s.Book.Lines++
		if number != peer.In {
			return fmt.Errorf("line %d where %d was expected", number, peer.In)
		}
	}
	peer.Out++
	_, err := io.WriteString(c, answerTo(line, number, peer.Out, size))
	return err
}

// speakUnasked writes to all peers now and then, for as long as this generation has
// them. No reader who comes to rest keeps it from doing so during a cut: the lock does.
func (s *service) speakUnasked() {
	for {
		select {
		case <-s.m.Done():
			return
		case <-time.After(unaskedEvery):
		}
		for i := range s.shards {
			if err := s.shards[i].speakUnasked(); err != nil && !over(err) {
				broken("unasked: %v", err)
			}
		}
	}
}

func (s *shard) speakUnasked() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.conns {
		peer := s.Book.Peers[name]
		peer.Out++
		if _, err := io.WriteString(c, answerTo("", 0, peer.Out, 0)); err != nil {
			return err
		}
	}
	return nil
}

// answerTo is a line of an answer.
func answerTo(line string, number, out uint64, size int) string {
	return fmt.Sprintf("%d %d %08x %s\n", number, out, crc32.ChecksumIEEE([]byte(line)), strings.Repeat("x", size))
}

// over says whether an error means the end of this generation's part.
func over(err error) bool {
	return errors.Is(err, mitosis.ErrSuperseded) || errors.Is(err, net.ErrClosed)
}

// answerQuestions answers the line server, with a buffer of its own.
func (s *service) answerQuestions(c *mitosis.Conn) {
	var unread []byte
	buffer := make([]byte, 3000)
	err := c.Mark(nil)
	for err == nil {
		var n int
		n, err = c.Read(buffer)
		unread = append(unread, buffer[:n]...)
		for err == nil {
			end := bytes.IndexByte(unread, '\n')
			if end < 0 {
				break
			}
			if err = s.answerQuestion(c, string(unread[:end+1])); err == nil {
				unread = unread[end+1:]
				err = c.Mark(unread)
			}
		}
	}
	if !over(err) {
		broken("questions: %v", err)
	}
}

func (s *service) answerQuestion(c *mitosis.Conn, line string) error {
	var number uint64
	var lines, size int
	if _, err := fmt.Sscan(line, &number, &lines, &size); err != nil {
		return fmt.Errorf("%.80q: %w", line, err)
	}
	q := &s.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.Count.In++; number != q.Count.In {
		return fmt.Errorf("question %d where %d was expected", number, q.Count.In)
	}
	for range lines {
		q.Count.Out++
		if _, err := io.WriteString(c, answerTo(line, number, q.Count.Out, size)); err != nil {
			return err
		}
	}
	return nil
}

// answerDatagrams echoes datagrams. What it has read it answers, and after the
// commit somebody else reads.
func (s *service) answerDatagrams(p net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := p.ReadFrom(buffer)
		if err != nil {
			if !over(err) {
				broken("datagrams: %v", err)
			}
			return
		}
		if _, err := p.WriteTo(buffer[:n], from); err != nil {
			broken("datagrams: %v", err)
		}
	}
}
