package main

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// roomSize is how many members the rooms of a crowd have.
const roomSize = 10

// A crowd is many people in many rooms. Each says numbered lines, the next one when it has heard one of its own, and
// checks that it hears those of all members of its room exactly once and in order.
type crowd struct {
	pause   time.Duration // before the next line
	members []*member
	talking sync.WaitGroup
	ending  atomic.Bool // nobody begins another line
	heard   atomic.Int64
}

// A member is one of a crowd.
type member struct {
	*person
	crowd      *crowd
	nick       string
	mates      []string       // the nicks in the room, the own one included
	said       int            // how many lines it has said
	next       map[string]int // the number of the next line, by nick
	ended      map[string]bool
	err        error
	transcript uint64 // the hash of all that it has heard
}

func newCrowd(t *testing.T, address string, n int) *crowd {
	t.Helper()
	c := &crowd{}
	for first := 0; first < n; first += roomSize {
		var mates []string
		for i := range roomSize {
			mates = append(mates, "c"+strconv.Itoa(first+i))
		}
		room := "room" + strconv.Itoa(first/roomSize)
		for _, nick := range mates {
			m := &member{
				person: newPerson(t, address).named(nick, room), crowd: c, nick: nick, mates: mates,
				next: map[string]int{}, ended: map[string]bool{},
			}
			c.members = append(c.members, m)
		}
		last := fmt.Sprintf("* %s has joined %s", mates[roomSize-1], room)
		for _, m := range c.members[first : first+roomSize-1] {
			m.awaits(last)
		}
	}
	return c
}

// begin lets all talk, each with as many lines of its own on the way as window says.
func (c *crowd) begin(window int) {
	for _, m := range c.members {
		c.talking.Go(func() { m.err = m.talk(window) })
	}
}

// end lets all finish what they are saying, and checks that they have heard all.
func (c *crowd) end(t *testing.T) {
	t.Helper()
	c.ending.Store(true)
	c.talking.Wait()
	for i, m := range c.members {
		require.NoError(t, m.err, "%s", m.nick)
		mate := c.members[i/roomSize*roomSize]
		require.Equal(t, mate.transcript, m.transcript, "%s and %s have heard another order", mate.nick, m.nick)
		for _, nick := range m.mates {
			require.NotZero(t, m.next[nick], "%s has heard nothing of %s", m.nick, nick)
		}
	}
}

// talk talks and listens until all in the room have said that they are at the end.
func (m *member) talk(window int) error {
	for range window {
		if err := m.sayNext(); err != nil {
			return err
		}
	}
	transcript := fnv.New64a()
	for len(m.ended) < len(m.mates) {
		line, err := m.lines.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("after %v: %w", m.next, err)
		}
		transcript.Write(line)
		own, err := m.hear(string(line))
		if err != nil {
			return err
		}
		m.crowd.heard.Add(1)
		if !own || m.ended[m.nick] {
			continue
		}
		if window--; m.crowd.ending.Load() {
			if window == 0 {
				err = m.write("end " + strconv.Itoa(m.said))
			}
		} else {
			time.Sleep(m.crowd.pause) // a bound on the traffic
			window++
			err = m.sayNext()
		}
		if err != nil {
			return err
		}
	}
	m.transcript = transcript.Sum64()
	return nil
}

// hear checks a line, and says whether it was an own one.
func (m *member) hear(line string) (own bool, err error) {
	nick, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "> ")
	nick = strings.TrimPrefix(nick, "<")
	n, known := m.next[nick]
	switch {
	case !ok || !known && !m.isMate(nick):
		return false, fmt.Errorf("unexpected line %q", line)
	case m.ended[nick]:
		return false, fmt.Errorf("%q after the end of %s", line, nick)
	case text == "end "+strconv.Itoa(n):
		m.ended[nick] = true
	case text == lineOf(n):
		m.next[nick] = n + 1
	default:
		return false, fmt.Errorf("%q where line %d of %s was expected", line, n, nick)
	}
	return nick == m.nick, nil
}

func (m *member) isMate(nick string) bool {
	for _, mate := range m.mates {
		if mate == nick {
			return true
		}
	}
	return false
}

// lineOf returns the text of a line, of a length of its own.
func lineOf(n int) string {
	return strconv.Itoa(n) + " " + strings.Repeat(string(rune('a'+n%26)), 1+n*7%40)
}

func (m *member) sayNext() error {
	m.said++
	return m.write(lineOf(m.said - 1))
}

// write sends a line in two pieces, so that there are often halves when a cut comes.
func (m *member) write(line string) error {
	b := append([]byte(line), '\n')
	half := bytes.IndexByte(b, ' ') + len(b)%5
	if half = min(half, len(b)); m.said%2 == 0 {
		half = 0
	}
	if _, err := m.TCPConn.Write(b[:half]); err != nil {
		return err
	}
	_, err := m.TCPConn.Write(b[half:])
	return err
}

// leave lets all quit, and wants the server to end each connection after a goodbye.
func (c *crowd) leave(t *testing.T) {
	t.Helper()
	for _, m := range c.members {
		m.say("/quit")
	}
	for _, m := range c.members {
		m.awaits("* goodbye")
		m.isSentAway()
		require.NoError(t, m.Close())
	}
}
