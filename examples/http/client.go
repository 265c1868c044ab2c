package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"time"
)

// A habit is how a client uses the service.
type habit struct {
	name       string
	pause      time.Duration // between requests, from half of it to one and a half
	hesitation time.Duration // at most, between a new connection and its first request
	keepAlive  bool
	slowEvery  int // one request of so many is sent in two halves
}

// A slow request takes this long to send, so that some are always half-way when the service restarts.
const slowRequest = 150 * time.Millisecond

var habits = []habit{
	{name: "busy", pause: 10 * time.Millisecond, keepAlive: true, slowEvery: 8},
	{name: "mostly idle", pause: 1500 * time.Millisecond, keepAlive: true},
	{name: "busy", pause: 10 * time.Millisecond, keepAlive: true, slowEvery: 8},
	{name: "short-lived", pause: 40 * time.Millisecond, hesitation: 60 * time.Millisecond},
}

// requestLimit is when an answer is given up.
const requestLimit = 10 * time.Second

const maxBody = 32 << 10

// client sends one POST after the other, over connections of its own making. It never repeats a request, as
// http.Client would, so a lost one is seen.
type client struct {
	number  int
	address string
	habit   habit
	tally   *tally

	conn       net.Conn // nil when there is none
	reader     *bufio.Reader
	closed     bool // the server has closed the connection before this one
	requests   int
	generation int // of the last answer
}

// run sends requests until ctx ends; one that has begun is finished.
func (c *client) run(ctx context.Context) {
	defer c.hangUp()
	for ctx.Err() == nil {
		c.requests++
		a, err := c.request()
		if err != nil {
			c.hangUp()
			c.tally.failed(fmt.Sprintf("client %d (%s), request %s", c.number, c.habit.name, c.name()), err)
		} else {
			c.tally.answered(a)
		}
		c.wait(ctx, jitter(c.habit.pause))
	}
}

// name is the number of the present request.
func (c *client) name() string { return fmt.Sprintf("%d-%d", c.number, c.requests) }

// request sends one request and returns its answer if that is full and correct.
func (c *client) request() (answer, error) {
	var a answer
	deadline := time.Now().Add(requestLimit)
	if err := c.dial(deadline); err != nil {
		return a, err
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return a, err
	}
	body := make([]byte, rand.IntN(maxBody))
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	if err := c.send(body); err != nil {
		return a, fmt.Errorf("send: %w", err)
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return a, fmt.Errorf("no answer: %w", err)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return a, fmt.Errorf("half an answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return a, fmt.Errorf("answer %s: %.80q", response.Status, content)
	}
	if err := json.Unmarshal(content, &a); err != nil {
		return a, fmt.Errorf("answer %.80q: %w", content, err)
	}
	sum := sha256.Sum256(body)
	switch {
	case a.Request != c.name():
		return a, fmt.Errorf("the answer is to request %q", a.Request)
	case a.SHA256 != hex.EncodeToString(sum[:]):
		return a, errors.New("the answer has another body's hash")
	case a.Generation < c.generation:
		return a, fmt.Errorf("generation %d has answered after generation %d", a.Generation, c.generation)
	}
	c.generation = a.Generation
	if response.Close {
		c.lose()
	}
	return a, nil
}

// dial makes a connection if there is none.
func (c *client) dial(deadline time.Time) error {
	if c.conn != nil {
		return nil
	}
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial("tcp", c.address)
	if err != nil {
		return err
	}
	if c.habit.keepAlive {
		c.tally.dialled(c.closed)
	}
	c.conn, c.reader, c.closed = conn, bufio.NewReader(conn), false
	if c.habit.hesitation > 0 {
		time.Sleep(rand.N(c.habit.hesitation))
	}
	return nil
}

func (c *client) send(body []byte) error {
	connection := "keep-alive"
	if !c.habit.keepAlive {
		connection = "close"
	}
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n%s: %s\r\nContent-Length: %d\r\n\r\n",
		hitPath, c.address, connection, requestHeader, c.name(), len(body))
	request = append(request, body...)
	if n := c.habit.slowEvery; n > 0 && rand.IntN(n) == 0 {
		half := rand.IntN(len(request))
		if _, err := c.conn.Write(request[:half]); err != nil {
			return err
		}
		request = request[half:]
		time.Sleep(slowRequest)
	}
	_, err := c.conn.Write(request)
	return err
}

// wait lets time pass, and notices when the server closes the connection meanwhile.
func (c *client) wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if c.conn == nil {
		<-ctx.Done()
		return
	}
	conn := c.conn
	_ = conn.SetReadDeadline(time.Time{}) // an error shows in Peek
	interrupted := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = conn.SetReadDeadline(time.Now())
	})
	_, err := c.reader.Peek(1)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		<-interrupted // or it would interrupt the next request
		return
	case err == nil:
		c.tally.failed(fmt.Sprintf("client %d (%s)", c.number, c.habit.name), errors.New("the server speaks without being asked"))
		c.hangUp()
	default:
		c.lose()
	}
	<-ctx.Done()
}

// lose gives up a connection that the server has closed. A client that keeps none has asked for that.
func (c *client) lose() {
	if c.habit.keepAlive {
		c.closed = true
		c.tally.closed()
	}
	c.hangUp()
}

func (c *client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn, c.reader = nil, nil
	}
}

// jitter returns half of d to one and a half of it.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
