// Service is a program that keeps something of every kind: listeners, a packet
// conn, a file, live connections, states. Its source does not know which version
// of the library it is built with.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bhuthesh/mitosis"
)

// version is the name of the library's version. The linker sets it.
var version string

// service is one generation.
type service struct {
	m         *mitosis.Registry
	directory string
	fate      string // what becomes of this process

	web, short, control net.Listener
	packet              net.PacketConn
	journal             *os.File

	mu      sync.Mutex
	lines   map[string]int // how many each connection has sent
	history []string       // the versions of the generations
	blob    []byte
	stream  stream

	working sync.WaitGroup // what has to end before the process may
}

func main() {
	s := &service{directory: os.Args[1], lines: map[string]int{}, blob: pattern(300_000)}
	fate, err := os.ReadFile(filepath.Join(s.directory, "fate"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.fail("fate", err)
	}
	s.fate = string(fate)
	s.m, err = mitosis.Init(mitosis.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		s.fail("init", err)
	}
	if s.fate == "exit" {
		os.Exit(3)
	}
	if err := s.declare(); err != nil {
		s.fail("declare", err)
	}
	if err := s.m.Ready(context.Background()); err != nil {
		s.fail("ready", err)
	}
	if err := s.begin(); err != nil {
		s.fail("begin", err)
	}
	err = s.m.Wait(context.Background())
	s.working.Wait()
	s.m.Close()
	fmt.Fprintln(os.Stderr, "ended:", err)
}

func (s *service) fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s failed in version %s (%t): %v\n", what, version, errors.Is(err, mitosis.ErrVersion), err)
	os.Exit(1)
}

// declare asks for what the earlier generation had.
func (s *service) declare() error {
	var errs [8]error
	s.web, errs[0] = s.m.Listen("web", "tcp", "127.0.0.1:0")
	s.short, errs[1] = s.m.Listen("short", "tcp", "127.0.0.1:0")
	s.control, errs[2] = s.m.Listen("control", "unix", filepath.Join(s.directory, "control"))
	s.packet, errs[3] = s.m.ListenPacket("packet", "udp", "127.0.0.1:0")
	s.journal, errs[4] = s.m.File("journal")
	if errors.Is(errs[4], mitosis.ErrNotFound) {
		if s.journal, errs[4] = os.Create(filepath.Join(s.directory, "journal")); errs[4] == nil {
			errs[4] = s.m.AddFile("journal", s.journal)
		}
	}
	errs[5] = s.m.State("lines", mitosis.Locked(&s.mu, mitosis.JSON(&s.lines)))
	errs[6] = errors.Join(s.m.State("history", mitosis.Gob(&s.history)), s.m.State("blob", mitosis.Bytes(&s.blob)))
	s.stream.fate = s.fate
	errs[7] = s.m.State("stream", &s.stream)
	return errors.Join(errs[:]...)
}

// begin serves, and says where.
func (s *service) begin() error {
	s.history = append(s.history, version)
	if _, err := fmt.Fprintf(s.journal, "%s\n", version); err != nil {
		return err
	}
	for _, c := range s.m.Conns("") {
		s.keep(c)
	}
	s.each(s.web, s.adopt)
	s.each(s.short, s.answerShort)
	s.each(s.control, s.obey)
	go s.answerPackets()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"Generation": s.m.Generation(), "Pid": os.Getpid(), "Version": version,
		"Web": s.web.Addr().String(), "Short": s.short.Addr().String(), "Packet": s.packet.LocalAddr().String(),
	})
}

// each serves the connections of a listener until it is another generation's.
func (s *service) each(ln net.Listener, serve func(net.Conn)) {
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.working.Add(1)
			go func() {
				defer s.working.Done()
				serve(c)
			}()
		}
	}()
}

// adopt puts a connection under the care of the registry.
func (s *service) adopt(accepted net.Conn) {
	c, err := s.m.AddConn("client/"+accepted.RemoteAddr().String(), accepted)
	if err != nil {
		s.fail("add a connection", err)
	}
	s.keep(c)
}

// keep answers the lines on a live connection.
func (s *service) keep(c *mitosis.Conn) {
	s.working.Add(1)
	go func() {
		defer s.working.Done()
		for {
			line, err := c.Reader().ReadString('\n')
			if err != nil {
				if !errors.Is(err, mitosis.ErrSuperseded) {
					c.Close()
				}
				return
			}
			s.mu.Lock()
			s.lines[c.Name()]++
			_, err = c.Write([]byte(s.reply(line)))
			s.mu.Unlock()
			if err != nil {
				s.fail("write", err)
			}
		}
	}()
}

// reply is the answer to a line.
func (s *service) reply(line string) string {
	return fmt.Sprintf("%s %s %d\n", strings.TrimSuffix(line, "\n"), version, s.m.Generation())
}

func (s *service) answerPackets() {
	b := make([]byte, 2048)
	for {
		n, from, err := s.packet.ReadFrom(b)
		if err != nil {
			return
		}
		s.packet.WriteTo([]byte(s.reply(string(b[:n]))), from)
	}
}
