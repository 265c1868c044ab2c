package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/bench/service"
)

// request is one request, ready to be written, with the answer that it must get.
type request struct {
	name   string
	pieces []piece // of what goes over the wire
	answer []byte  // the body of the only correct answer
	closes bool    // asks for the end of the connection
}

// piece is written at once, after a pause.
type piece struct {
	pause time.Duration
	bytes []byte
}

// compose makes the next request of the client.
func (c *client) compose() *request {
	c.made++
	r := &request{name: fmt.Sprintf("%s-%d-%d", c.kind, c.number, c.made)}
	body := c.randomBody()
	path, header := "/echo", ""
	switch c.kind {
	case Short:
		header, r.closes = "Connection: close\r\n", true
	case Slow:
		path = fmt.Sprintf("/slow?delay=%dms", 50+c.random.IntN(950))
	case Upload:
		path = "/upload"
	case Stream:
		blocks := 2 + c.random.IntN(20)
		path = fmt.Sprintf("/stream?blocks=%d&pause=%dms", blocks, c.random.IntN(25))
		var answer bytes.Buffer
		_ = service.WriteStream(&answer, r.name, body, blocks, func() error { return nil })
		r.answer = answer.Bytes()
	}
	if r.answer == nil {
		r.answer = service.Answer(r.name, body)
	}
	head := "POST " + path + " HTTP/1.1\r\nHost: bench\r\n" + header + service.HeaderRequest + ": " + r.name + "\r\n"
	if c.kind == Upload {
		r.pieces = c.chunks(head, body)
		return r
	}
	head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	r.pieces = []piece{{bytes: append([]byte(head), body...)}}
	return r
}

// randomBody is mostly small, and now and then larger than the buffers on its way.
func (c *client) randomBody() []byte {
	size := 16 + c.random.IntN(1000)
	if c.random.IntN(50) == 0 {
		size += 20_000
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(c.random.Uint32())
	}
	return body
}

// chunks cuts a body into chunks that are written one by one, with pauses.
func (c *client) chunks(head string, body []byte) []piece {
	pieces := []piece{{bytes: []byte(head + "Transfer-Encoding: chunked\r\n\r\n")}}
	count := 2 + c.random.IntN(10)
	for i := range count {
		chunk := body[len(body)*i/count : len(body)*(i+1)/count]
		pieces = append(pieces, piece{
			pause: c.upTo(50 * time.Millisecond),
			bytes: fmt.Appendf(nil, "%x\r\n%s\r\n", len(chunk), chunk),
		})
	}
	return append(pieces, piece{bytes: []byte("0\r\n\r\n")})
}

// answer is what a correct answer says beyond its body.
type answer struct {
	process int
	closes  bool // announces the end of the connection
}

// failure is why a request has no correct answer.
type failure string

func (f failure) Error() string { return string(f) }

// readAnswer reads one answer and compares it with what it must be. The error is a failure.
func readAnswer(reader *bufio.Reader, r *request) (answer, error) {
	if _, err := reader.Peek(1); err != nil {
		return answer{}, failure(reasonFor(err) + " before the answer")
	}
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodPost})
	if err != nil {
		return answer{}, failure(reasonFor(err) + " in the header of the answer")
	}
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return answer{}, failure(fmt.Sprintf("status %d", response.StatusCode))
	}
	if err != nil {
		return answer{}, failure(reasonFor(err) + " in the body of the answer")
	}
	if !bytes.Equal(body, r.answer) {
		return answer{}, failure("wrong answer")
	}
	// An answer without a process is as good as any other: the process is 0 then.
	process, _ := strconv.Atoi(response.Header.Get(service.HeaderProcess))
	return answer{process: process, closes: response.Close}, nil
}

// reasonFor puts a network error into words that are the same for the same cause.
func reasonFor(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}
