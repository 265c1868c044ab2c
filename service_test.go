//go:build unix

package mitosis

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The service of the programs under test: each line and each datagram is answered
// with the line, the generation and pid of the process, and the number of requests
// that the program has answered.

// answer is what the service says.
type answer struct {
	Line            string
	Generation, Pid int
	Requests        int
}

func (a *application) reply(line string) string {
	lock := a.lock("requests")
	lock.Lock()
	defer lock.Unlock()
	a.requests++
	return fmt.Sprintf("%s %d %d %d\n", line, a.m.Generation(), os.Getpid(), a.requests)
}

// openSocket opens or inherits a socket of the plan.
func (a *application) openSocket(s plannedSocket) error {
	var socket any
	var err error
	switch s.How {
	case "listen":
		socket, err = a.m.Listen(s.Name, s.Network, s.Address)
	case "packet":
		socket, err = a.m.ListenPacket(s.Name, s.Network, s.Address)
	case "listener":
		socket, err = a.m.Listener(s.Name)
	case "packet conn":
		socket, err = a.m.PacketConn(s.Name)
	case "add":
		if socket, err = a.m.Listener(s.Name); errors.Is(err, ErrNotFound) {
			var ln net.Listener
			if ln, err = net.Listen(s.Network, s.Address); err == nil {
				socket, err = a.m.AddListener(s.Name, ln)
			}
		}
	case "add packet":
		if socket, err = a.m.PacketConn(s.Name); errors.Is(err, ErrNotFound) {
			var pc net.PacketConn
			if pc, err = net.ListenPacket(s.Network, s.Address); err == nil {
				socket, err = a.m.AddPacketConn(s.Name, pc)
			}
		}
	case "file":
		if socket, err = a.m.File(s.Name); errors.Is(err, ErrNotFound) {
			var f *os.File
			if f, err = openPlannedFile(s); err == nil {
				socket, err = f, a.m.AddFile(s.Name, f)
			}
		}
	case "inherited file":
		socket, err = a.m.File(s.Name)
	case "pipe":
		return a.openPlannedPipe(s)
	default:
		err = fmt.Errorf("unknown way to open a socket: %q", s.How)
	}
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.sockets[s.Name] = socket
	}
	return err
}

func (a *application) socket(name string) any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sockets[name]
}

// serve serves on all sockets.
func (a *application) serve() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, socket := range a.sockets {
		switch socket := socket.(type) {
		case net.Listener:
			a.loops.Add(1)
			go a.accept(socket)
		case net.PacketConn:
			a.loops.Add(1)
			go a.receive(socket)
		}
	}
}

func (a *application) accept(ln net.Listener) {
	defer a.loops.Done()
	for {
		c, err := ln.Accept()
		if errors.Is(err, syscall.EMFILE) {
			time.Sleep(5 * time.Millisecond) // as http.Server does
			continue
		}
		if err != nil {
			a.report("accept ended", "", err)
			return
		}
		a.connections.Add(1)
		go func() {
			defer a.connections.Done()
			defer c.Close()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				if _, err := c.Write([]byte(a.reply(lines.Text()))); err != nil {
					return
				}
			}
		}()
	}
}

func (a *application) receive(pc net.PacketConn) {
	defer a.loops.Done()
	b := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			a.report("receive ended", "", err)
			return
		}
		pc.WriteTo([]byte(a.reply(string(b[:n]))), from)
	}
}

func init() {
	functions["count"] = func(a *application, _ []string) (string, error) {
		return a.reply("count"), nil
	}
	functions["address"] = func(a *application, args []string) (string, error) {
		switch s := a.socket(args[0]).(type) {
		case net.Listener:
			return s.Addr().String(), nil
		case net.PacketConn:
			return s.LocalAddr().String(), nil
		}
		return "", fmt.Errorf("no socket %q with an address", args[0])
	}
	functions["close"] = func(a *application, args []string) (string, error) {
		switch s := a.socket(args[0]).(type) {
		case interface{ Close() error }:
			return "", s.Close()
		}
		return "", fmt.Errorf("no socket %q", args[0])
	}
	functions["remove"] = func(a *application, args []string) (string, error) {
		return "", a.m.Remove(args[0])
	}
	functions["open"] = func(a *application, args []string) (string, error) {
		return "", a.openSocket(plannedSocket{args[0], args[1], args[2], args[3]})
	}
}

// client is a client of the service.
type client struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

// dial connects to the service. The connection is closed when the test ends.
func dial(t testing.TB, network, address string) *client {
	t.Helper()
	c, err := net.DialTimeout(network, address, bound)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &client{t, c, bufio.NewReader(c)}
}

// dial connects to the listener of that name.
func (p *generation) dial(name string) *client {
	p.t.Helper()
	return dial(p.t, "tcp", p.do("address", name))
}

// say sends a line.
func (c *client) say(line string) {
	c.t.Helper()
	_, err := fmt.Fprintln(c.conn, line)
	require.NoError(c.t, err)
}

// hear waits for an answer.
func (c *client) hear() answer {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(bound))
	line, err := c.in.ReadString('\n')
	require.NoError(c.t, err)
	return c.parse(line)
}

func (c *client) parse(line string) (a answer) {
	c.t.Helper()
	_, err := fmt.Sscan(line, &a.Line, &a.Generation, &a.Pid, &a.Requests)
	require.NoError(c.t, err, "%q", line)
	return a
}

// ask sends a line and returns the answer.
func (c *client) ask(line string) answer {
	c.t.Helper()
	c.say(line)
	a := c.hear()
	require.Equal(c.t, line, a.Line)
	return a
}

// hangUp closes the connection.
func (c *client) hangUp() { c.conn.Close() }

// refuses asserts that nobody listens there.
func refuses(t testing.TB, network, address string) {
	t.Helper()
	c, err := net.DialTimeout(network, address, bound)
	if err == nil {
		c.Close()
	}
	require.Error(t, err)
}
