//go:build unix

package compat

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client keeps a connection on which it always has some lines under way, and looks
// at every byte that comes back.
type client struct {
	conn net.Conn
	stop chan struct{}
	done chan error
	sent int // when done
	seen map[int]int
}

// line is the n-th line of a client: of many lengths, some longer than a buffer.
func line(n int) string {
	return fmt.Sprintf("%d-%s", n, strings.Repeat(string(rune('a'+n%26)), n*n%5000))
}

func connect(t testing.TB, address string) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, bound)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	c := &client{conn: conn, stop: make(chan struct{}), done: make(chan error, 1), seen: map[int]int{}}
	underWay := make(chan int, 16)
	go c.write(underWay)
	go func() { c.done <- c.read(underWay) }()
	return c
}

func (c *client) write(underWay chan<- int) {
	defer close(underWay)
	for n := 0; ; n++ {
		select {
		case <-c.stop:
			return
		case underWay <- n:
		}
		if _, err := fmt.Fprintln(c.conn, line(n)); err != nil {
			return // the reader will say so
		}
	}
}

func (c *client) read(underWay <-chan int) error {
	in := bufio.NewReader(c.conn)
	for n := range underWay {
		c.conn.SetReadDeadline(time.Now().Add(bound))
		got, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the answer to line %d: %w", n, err)
		}
		echo, rest, _ := strings.Cut(got, " ")
		if echo != line(n) {
			return fmt.Errorf("the answer to line %d is %.80q", n, got)
		}
		var version string
		var generation int
		if _, err := fmt.Sscan(rest, &version, &generation); err != nil {
			return err
		}
		c.sent++
		c.seen[generation]++
	}
	return nil
}

// finish returns when all answers have come.
func (c *client) finish(t testing.TB) {
	t.Helper()
	close(c.stop)
	require.NoError(t, <-c.done)
}

// name is the connection's name in the service.
func (c *client) name() string { return "client/" + c.conn.LocalAddr().String() }

// exchange sends a text and waits for an answer.
func exchange(t testing.TB, c net.Conn, text string) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(bound))
	_, err := c.Write([]byte(text))
	require.NoError(t, err)
	b := make([]byte, 2048)
	n, err := c.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

func open(t testing.TB, network, address string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(network, address, bound)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}
