package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/bhuthesh/mitosis"
)

// outcome is what a split came to.
type outcome struct {
	Error                              string
	Refused, Exited, Version, Protocol bool // what it matches
}

// obey answers one command of the tests.
func (s *service) obey(c net.Conn) {
	defer c.Close()
	command, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return
	}
	switch command {
	case "split\n":
		var o outcome
		if err := s.m.Split(context.Background()); err != nil {
			o = outcome{
				Error:   err.Error(),
				Refused: errors.Is(err, mitosis.ErrRefused), Exited: errors.Is(err, mitosis.ErrChildExited),
				Version: errors.Is(err, mitosis.ErrVersion), Protocol: errors.Is(err, mitosis.ErrProtocol),
			}
		}
		json.NewEncoder(c).Encode(o)
	case "state\n":
		s.mu.Lock()
		defer s.mu.Unlock()
		json.NewEncoder(c).Encode(map[string]any{
			"Lines": s.lines, "History": s.history, "Blob": string(s.blob) == string(pattern(len(s.blob))), "BlobSize": len(s.blob),
			"Streamed": s.stream.loaded,
		})
	}
}

// answerShort answers lines on a connection that goes to the next generation by
// Forward, with what has come of a line.
func (s *service) answerShort(c net.Conn) {
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.m.Done():
			c.SetReadDeadline(time.Unix(1, 0))
		case <-ended:
		}
	}()
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		switch {
		case err == nil:
			if _, err := c.Write([]byte(s.reply(line))); err != nil {
				s.fail("write", err)
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			fmt.Fprintf(os.Stderr, "forwarded with %q\n", line)
			c.SetReadDeadline(time.Time{})
			if err := s.short.(interface{ Forward(net.Conn, []byte) error }).Forward(c, []byte(line)); err != nil {
				s.fail("forward", err)
			}
			return
		default:
			c.Close()
			return
		}
	}
}
