//go:build unix

package main

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A client is somebody else on the server.
type client struct {
	t    *testing.T
	nick string
	conn net.Conn
	got  *journal[message] // all that the server has sent
	read int               // how much of it has been waited for

	mu sync.Mutex // guards writing
}

// newClient connects, registers and joins #test.
func newClient(t *testing.T, server, nick string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", server)
	require.NoError(t, err)
	c := &client{t: t, nick: nick, conn: conn, got: newJournal[message]()}
	t.Cleanup(func() {
		_ = conn.Close()
		c.got.awaitEnd(t, "the end of "+nick)
	})
	go c.receive()
	c.send("NICK " + nick)
	c.send("USER " + nick + " 0 * :" + nick)
	c.await("001", "")
	c.send("JOIN #test")
	c.await("366", "")
	return c
}

func (c *client) receive() {
	defer c.got.end()
	for lines := bufio.NewScanner(c.conn); lines.Scan(); {
		m, err := parseMessage(lines.Text())
		if err != nil {
			continue
		}
		if m.Command == "PING" {
			c.send(line("PONG", m.Params...))
		}
		c.got.add(m)
	}
}

func (c *client) send(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = c.conn.Write([]byte(line + "\r\n")) // a lost connection shows in what does not come back
}

func (c *client) say(format string, arguments ...any) {
	c.send("PRIVMSG #test :" + fmt.Sprintf(format, arguments...))
}

// await waits for the next message with this command whose last parameter begins with start.
func (c *client) await(command, start string) message {
	c.t.Helper()
	m, next := c.got.await(c.t, c.nick+": "+command+" "+start, c.read, func(m message) bool {
		return m.Command == command && strings.HasPrefix(m.last(), start)
	})
	c.read = next
	return m
}

// ask says something in the channel and waits for the bot's answer that begins with start.
func (c *client) ask(question, start string) string {
	c.t.Helper()
	c.say("%s", question)
	return c.await("PRIVMSG", start).last()
}

// signOn returns when the server says that the bot has connected.
func (c *client) signOn() string {
	c.t.Helper()
	c.send("WHOIS robot")
	idle := c.await("317", "") // our nick, its nick, idle seconds, sign-on time, text
	require.Len(c.t, idle.Params, 5)
	return idle.Params[3]
}

// chatter is somebody who keeps asking the bot, several questions ahead of the answers.
type chatter struct {
	*client
	sent int
	stop chan struct{}
	done chan struct{}
}

// questionsAhead is how many questions are under way at any time.
const questionsAhead = 5

func newChatter(t *testing.T, server, nick string) *chatter {
	c := &chatter{client: newClient(t, server, nick), stop: make(chan struct{}), done: make(chan struct{})}
	go c.chat()
	t.Cleanup(c.finish)
	return c
}

func (c *chatter) chat() {
	defer close(c.done)
	pace := time.NewTicker(4 * time.Millisecond)
	defer pace.Stop()
	answered, read := 0, 0
	for {
		select {
		case <-c.stop:
			return
		case <-pace.C:
		}
		for c.sent-answered >= questionsAhead {
			var ok bool
			_, read, ok = c.got.find(read, patience, func(m message) bool {
				return m.Command == "PRIVMSG" && strings.HasPrefix(m.last(), "pong "+c.nick+"-")
			})
			if !ok {
				return // the comparison at the end will show it
			}
			answered++
		}
		c.say("!ping %s-%d", c.nick, c.sent)
		if c.sent%3 == 0 {
			c.say("number %d, and nothing to answer", c.sent)
		}
		c.sent++
	}
}

// finish ends the chatter. It may be called again.
func (c *chatter) finish() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	<-c.done
}

// answersTo returns the numbers in the bot's answers to a chatter, as the client has seen them in the channel.
func (c *client) answersTo(nick string) (numbers []string) {
	for _, m := range c.got.all() {
		if m.Command == "PRIVMSG" && m.Prefix.Name == "robot" {
			if number, ok := strings.CutPrefix(m.last(), "pong "+nick+"-"); ok {
				numbers = append(numbers, number)
			}
		}
	}
	return numbers
}

// moves returns what a client has seen of the bot's comings and goings.
func (c *client) moves() (moves []string) {
	for _, m := range c.got.all() {
		about := m.Prefix.Name == "robot" || m.Command == "KICK" && m.param(1) == "robot"
		if about && slices.Contains([]string{"JOIN", "PART", "QUIT", "NICK", "KICK"}, m.Command) {
			moves = append(moves, m.Command)
		}
	}
	return moves
}
