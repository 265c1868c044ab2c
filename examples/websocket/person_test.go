//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gobwas/ws"
)

// A person is a client of the chat, on a connection that is never dialled anew. It checks that the numbers of the
// messages have no gap.
type person struct {
	*net.TCPConn
	in     *bufio.Reader
	last   uint64 // the number of the last message, 0 before the first one
	closed ws.StatusCode
}

// request returns the opening handshake.
func request(room, name string) string {
	return "GET /ws?room=" + room + "&name=" + name + " HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\n" +
		"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

// dial connects, and says nothing. A slow person has a small buffer for what it receives.
func dial(address string, slow bool) (*person, error) {
	dialer := net.Dialer{}
	if slow {
		dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			if controlErr := raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10)
			}); controlErr != nil {
				return controlErr
			}
			return err
		}
	}
	c, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(3 * patience))
	return &person{TCPConn: c.(*net.TCPConn), in: bufio.NewReader(c)}, nil
}

// join dials and joins a room, and has heard so when it returns.
func join(address, room, name string, slow bool) (*person, error) {
	p, err := dial(address, slow)
	if err != nil {
		return nil, err
	}
	if _, err = io.WriteString(p, request(room, name)); err == nil {
		err = p.enter(name)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("join: %w", err)
	}
	return p, nil
}

// enter reads the answer to the opening handshake, and the message that one has joined.
func (p *person) enter(name string) error {
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		return fmt.Errorf("%s %v", response.Status, response.Header)
	}
	text, err := p.hear()
	if err == nil && text != "* "+name+" has joined" {
		err = fmt.Errorf("%q instead of a welcome", text)
	}
	return err
}

// frame returns the bytes of a frame as clients send it.
func frame(opcode ws.OpCode, fin bool, payload []byte) []byte {
	return ws.MustCompileFrame(ws.MaskFrameWith(ws.NewFrame(opcode, fin, payload), [4]byte{1, 0x80, 0xff, 7}))
}

func (p *person) send(opcode ws.OpCode, fin bool, payload string) error {
	_, err := p.Write(frame(opcode, fin, []byte(payload)))
	return err
}

func (p *person) say(text string) error { return p.send(ws.OpText, true, text) }

var errClosed = errors.New("a close frame")

// next returns what comes next: a message without its number, or a control frame.
func (p *person) next() (ws.OpCode, string, error) {
	f, err := ws.ReadFrame(p.in)
	if err != nil {
		return 0, "", err
	}
	switch err := ws.CheckHeader(f.Header, ws.StateClientSide); {
	case err != nil:
		return 0, "", err
	case f.Header.OpCode == ws.OpClose:
		p.closed, _ = ws.ParseCloseFrameData(f.Payload)
		return f.Header.OpCode, string(f.Payload), errClosed
	case f.Header.OpCode != ws.OpText:
		return f.Header.OpCode, string(f.Payload), nil
	}
	number, text, _ := strings.Cut(string(f.Payload), " ")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || p.last > 0 && n != p.last+1 {
		return 0, "", fmt.Errorf("message %s after %d: %.40q", number, p.last, text)
	}
	p.last = n
	return f.Header.OpCode, text, nil
}

// hear returns the next message, but for those of a new generation.
func (p *person) hear() (string, error) {
	for {
		opcode, text, err := p.next()
		if err == nil && opcode != ws.OpText {
			err = fmt.Errorf("opcode %d instead of a message", opcode)
		}
		if err != nil || !strings.HasPrefix(text, "* generation ") {
			return text, err
		}
	}
}

// hears wants these messages to come next.
func (p *person) hears(texts ...string) error {
	for _, text := range texts {
		if got, err := p.hear(); err != nil || got != text {
			return fmt.Errorf("%.60q (%v) instead of %.60q", got, err, text)
		}
	}
	return nil
}

// ping wants the answer to come next, but for messages of a new generation.
func (p *person) ping(payload string) error {
	if err := p.send(ws.OpPing, true, payload); err != nil {
		return err
	}
	return p.hearsPong(payload)
}

func (p *person) hearsPong(payload string) error {
	for {
		opcode, got, err := p.next()
		switch {
		case err == nil && opcode == ws.OpText && strings.HasPrefix(got, "* generation "):
		case err != nil || opcode != ws.OpPong || got != payload:
			return fmt.Errorf("%d %.60q (%v) instead of the pong %q", opcode, got, err, payload)
		default:
			return nil
		}
	}
}

// leave closes in order, and wants the server to do the same.
func (p *person) leave() error {
	payload := ws.NewCloseFrameBody(ws.StatusNormalClosure, "enough")
	if err := p.send(ws.OpClose, true, string(payload)); err != nil {
		return err
	}
	return p.hearsClose(payload)
}

// hearsClose wants a close frame, and then the end.
func (p *person) hearsClose(payload []byte) error {
	for {
		_, got, err := p.next()
		if err == nil {
			continue
		}
		if !errors.Is(err, errClosed) || !bytes.Equal([]byte(got), payload) {
			return fmt.Errorf("%q (%v) instead of the close frame %q", got, err, payload)
		}
		rest, err := io.ReadAll(p.in)
		if err != nil || len(rest) > 0 {
			return fmt.Errorf("%q (%v) after the close frame", rest, err)
		}
		return p.Close()
	}
}
