package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// A person is somebody who uses the chat.
type person struct {
	t *testing.T
	*net.TCPConn
	lines *bufio.Reader
}

func newPerson(t *testing.T, address string) *person {
	t.Helper()
	return dial(t, address, net.Dialer{})
}

// newSlowPerson returns somebody with a small receive buffer, so that the server soon finds the way blocked.
func newSlowPerson(t *testing.T, address string) *person {
	t.Helper()
	return dial(t, address, net.Dialer{ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { setReceiveBuffer(fd, 16<<10) })
	}})
}

func dial(t *testing.T, address string, dialer net.Dialer) *person {
	t.Helper()
	c, err := dialer.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(3*patience)))
	return &person{t: t, TCPConn: c.(*net.TCPConn), lines: bufio.NewReader(c)}
}

func (p *person) say(lines ...string) {
	p.t.Helper()
	_, err := io.WriteString(p, strings.Join(lines, "\n")+"\n")
	require.NoError(p.t, err)
}

// hears wants these lines to come next, and no others.
func (p *person) hears(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		got, err := p.lines.ReadString('\n')
		require.NoError(p.t, err, "waiting for %q", line)
		require.Equal(p.t, line+"\n", got)
	}
}

// awaits skips lines until one begins with prefix, and returns it.
func (p *person) awaits(prefix string) string {
	p.t.Helper()
	for {
		line, err := p.lines.ReadString('\n')
		require.NoError(p.t, err, "waiting for %q", prefix)
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSuffix(line, "\n")
		}
	}
}

// isSentAway wants the connection to end with nothing more to read.
func (p *person) isSentAway() {
	p.t.Helper()
	rest, err := io.ReadAll(p.lines)
	require.NoError(p.t, err)
	require.Empty(p.t, string(rest))
}

// person returns somebody who has a nick and is in a room.
func (p *person) named(nick, room string) *person {
	p.t.Helper()
	p.say("/nick "+nick, "/join "+room)
	p.awaits("* " + nick + " has joined " + room)
	return p
}
