package soak

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// talker is the test's end of a connection of lines.
type talker struct {
	conn     net.Conn
	in       *bufio.Reader
	random   *rand.Rand
	number   uint64 // of the last line sent
	received uint64 // lines
	slow     bool   // it reads slowly
	lines    *atomic.Uint64
}

func newTalker(conn net.Conn, random *rand.Rand, lines *atomic.Uint64) *talker {
	return &talker{conn: conn, in: bufio.NewReaderSize(conn, 8<<10), random: random, lines: lines}
}

// talk sends some lines and reads the answers.
func (s *soak) talk(t *talker) error {
	if err := t.conn.SetDeadline(time.Now().Add(bound)); err != nil {
		return err
	}
	var lines []string
	var wanted []int
	for range 1 + t.random.IntN(12) {
		t.number++
		n, size := 1, 0
		if t.random.IntN(4) == 0 {
			n, size = 1+t.random.IntN(3), t.random.IntN(3000)
		}
		if t.slow && len(lines) == 0 {
			n, size = 50+t.random.IntN(350), 4000
		}
		lines = append(lines, fmt.Sprintf("%d %d %d %s\n", t.number, n, size, strings.Repeat("c", t.random.IntN(1000))))
		wanted = append(wanted, n)
	}
	sent := make(chan error, 1)
	random := rand.New(rand.NewPCG(t.random.Uint64(), 0))
	go func() {
		sent <- sendInPieces(t.conn, random, []byte(strings.Join(lines, "")), 1+random.IntN(4), 2*time.Millisecond)
	}()
	for i, line := range lines {
		number := t.number - uint64(len(lines)-1-i)
		for range wanted[i] {
			if err := t.expect(line, number); err != nil {
				return err
			}
			s.figures.answers.Add(1)
		}
	}
	t.lines.Add(uint64(len(lines)))
	return <-sent
}

// expect reads one line of an answer, and what comes unasked before it.
func (t *talker) expect(line string, number uint64) error {
	if t.slow && t.random.IntN(4) == 0 {
		<-time.After(rand.N(6 * time.Millisecond)) // as slow readers are
	}
	for {
		unasked, err := t.read(line, number)
		if err != nil {
			return fmt.Errorf("line %d, in answer to %d: %w", t.received, number, err)
		}
		if !unasked {
			return nil
		}
	}
}

// read reads a line, which is one of the answer to that number, or comes unasked.
func (t *talker) read(line string, number uint64) (unasked bool, err error) {
	t.received++
	answer, err := t.in.ReadSlice('\n')
	if err == io.EOF && len(answer) == 0 {
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("%w after %.80q", err, answer)
	}
	if unasked = bytes.HasPrefix(answer, []byte("0 ")); unasked {
		line, number = "", 0
	}
	expected := strings.TrimRight(answerTo(line, number, t.received, 0), "\n")
	if !bytes.HasPrefix(answer, []byte(expected)) || len(bytes.Trim(answer[len(expected):], "x\n")) > 0 {
		return unasked, fmt.Errorf("got %.80q where %q was expected", answer, expected)
	}
	return unasked, nil
}

// hangUp ends a chat in order.
func (t *talker) hangUp() error {
	defer t.conn.Close()
	if err := t.conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	for {
		unasked, err := t.read("", 0)
		if err == io.EOF {
			return nil
		}
		if err != nil || !unasked {
			return fmt.Errorf("at the end of a chat: %w", errors.Join(err, errors.New("no end")))
		}
	}
}

func (s *soak) dialChat(random *rand.Rand) (*talker, error) {
	conn, err := net.Dial("tcp", s.chat)
	if err != nil {
		return nil, err
	}
	return newTalker(conn, random, &s.figures.lines), nil
}

// chatBriefly comes, talks and goes.
func (s *soak) chatBriefly(random *rand.Rand) error {
	t, err := s.dialChat(random)
	if err != nil {
		return err
	}
	defer t.conn.Close()
	for range random.IntN(3) {
		if err := s.talk(t); err != nil {
			return err
		}
	}
	s.figures.visits.Add(1)
	return t.hangUp()
}

// questioner is the line server: it has one client for the whole soak, and asks.
type questioner struct {
	listener net.Listener
	client   chan net.Conn
}

func (s *soak) startQuestioner() *questioner {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.fail("line server: %v", err)
		return nil
	}
	q := &questioner{l, make(chan net.Conn, 1)}
	go func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if n > 1 {
				c.Close()
				s.fail("the service has dialled the line server %d times", n)
				return
			}
			q.client <- c
		}
	}()
	return q
}

// exchangeDatagrams sends a few numbered datagrams, and wants each back once.
func (s *soak) exchangeDatagrams(c net.Conn, number *uint64, random *rand.Rand) error {
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		return err
	}
	missing := map[string]bool{}
	for range 1 + random.IntN(4) {
		*number++
		text := fmt.Sprintf("%d %s", *number, strings.Repeat("u", random.IntN(1000)))
		missing[text] = true
		if _, err := io.WriteString(c, text); err != nil {
			return err
		}
	}
	s.figures.datagrams.Add(uint64(len(missing)))
	buffer := make([]byte, 2000)
	for len(missing) > 0 {
		n, err := c.Read(buffer)
		if err != nil {
			return fmt.Errorf("%d datagrams up to %d: %w", len(missing), *number, err)
		}
		if text := string(buffer[:n]); !missing[text] {
			return fmt.Errorf("datagram %.30q was not expected", text)
		}
		delete(missing, string(buffer[:n]))
	}
	return nil
}
