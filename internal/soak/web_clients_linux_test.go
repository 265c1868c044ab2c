package soak

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"
)

// webClient is one connection for the whole soak, with raw requests.
type webClient struct {
	conn   net.Conn
	in     *bufio.Reader
	random *rand.Rand
	number int
}

func dialWeb(network, address string, random *rand.Rand) (*webClient, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return &webClient{conn: conn, in: bufio.NewReader(conn), random: random}, nil
}

// request is what was asked.
type request struct {
	number int
	body   []byte
	text   []byte // all of it, as it is sent
}

// post makes a request. A chunked one has pieces of random sizes.
func (c *webClient) post(path string, body []byte, chunked bool, headers ...string) request {
	c.number++
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: soak\r\nX-Number: %d\r\nX-Sum: %08x\r\n", path, c.number, crc32.ChecksumIEEE(body))
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if !chunked {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(body))
		b.Write(body)
		return request{c.number, body, b.Bytes()}
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	for rest := body; len(rest) > 0; {
		n := 1 + c.random.IntN(len(rest))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	b.WriteString("0\r\n\r\n")
	return request{c.number, body, b.Bytes()}
}

// body returns up to max random bytes.
func (c *webClient) body(max int) []byte {
	b := make([]byte, c.random.IntN(max+1))
	for i := range b {
		b[i] = byte(c.random.Uint32())
	}
	return b
}

// send sends text in some pieces, with pauses of up to the given length.
func (c *webClient) send(text []byte, pieces int, pause time.Duration) error {
	if err := c.conn.SetDeadline(time.Now().Add(bound)); err != nil {
		return err
	}
	return sendInPieces(c.conn, c.random, text, pieces, pause)
}

func sendInPieces(w io.Writer, random *rand.Rand, text []byte, pieces int, pause time.Duration) error {
	for ; pieces > 1 && len(text) > 1; pieces-- {
		n := 1 + random.IntN(len(text)-1)
		if _, err := w.Write(text[:n]); err != nil {
			return err
		}
		text = text[n:]
		if pause > 0 {
			<-time.After(rand.N(pause)) // as slow clients are
		}
	}
	_, err := w.Write(text)
	return err
}

// answer reads the answer to the request of that number.
func (c *webClient) answer(number int, last bool) (*http.Response, []byte, error) {
	if err := c.conn.SetDeadline(time.Now().Add(bound)); err != nil {
		return nil, nil, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("answer %d: %w", number, err)
	}
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		err = fmt.Errorf("answer %d after %d bytes: %w", number, len(body), err)
	case response.StatusCode != http.StatusOK:
		err = fmt.Errorf("answer %d: %s %.200s", number, response.Status, body)
	case response.Close != last:
		err = fmt.Errorf("answer %d: Connection: close is %v", number, response.Close)
	}
	return response, body, err
}

// check reads the answer to r, which has to be r's.
func (c *webClient) check(r request, last bool) error {
	response, body, err := c.answer(r.number, last)
	if err != nil {
		return err
	}
	if got := response.Header.Get("X-Number"); got != fmt.Sprint(r.number) || !bytes.Equal(body, r.body) {
		return fmt.Errorf("request %d with %d bytes got answer %s with %d bytes", r.number, len(r.body), got, len(body))
	}
	return nil
}

// poster posts bodies of all sizes.
func (s *soak) poster(c *webClient) error {
	size := 2000
	if c.random.IntN(20) == 0 {
		size = 1 << 20
	}
	return s.ask(c, c.post("/echo", c.body(size), false), 1+c.random.IntN(2), 2*time.Millisecond)
}

// uploader posts slowly, in chunks.
func (s *soak) uploader(c *webClient) error {
	return s.ask(c, c.post("/echo", c.body(100<<10), true), 1+c.random.IntN(8), 20*time.Millisecond)
}

func (s *soak) ask(c *webClient, r request, pieces int, pause time.Duration) error {
	if err := c.send(r.text, pieces, pause); err != nil {
		return err
	}
	s.figures.requests.Add(1)
	return c.check(r, false)
}

// pipeliner sends several requests before it reads an answer.
func (s *soak) pipeliner(c *webClient) error {
	var requests []request
	var text []byte
	for range 1 + c.random.IntN(6) {
		r := c.post("/echo", c.body(1500), c.random.IntN(4) == 0)
		requests = append(requests, r)
		text = append(text, r.text...)
	}
	if err := c.send(text, 1+c.random.IntN(5), 10*time.Millisecond); err != nil {
		return err
	}
	for _, r := range requests {
		s.figures.requests.Add(1)
		if err := c.check(r, false); err != nil {
			return err
		}
	}
	return nil
}

// stutterer lets some time pass when it has sent the first bytes of a request: an
// http.Server that waits between two requests already holds them.
func (s *soak) stutterer(c *webClient) error {
	r := c.post("/echo", c.body(500), false)
	n := 1 + c.random.IntN(5)
	if err := c.send(r.text[:n], 1, 0); err != nil {
		return err
	}
	<-time.After(time.Duration(c.random.Int64N(int64(300 * time.Millisecond))))
	r.text = r.text[n:]
	return s.ask(c, r, 1, 0)
}

// streamer gets a response that takes its time.
func (s *soak) streamer(c *webClient) error {
	c.number++
	lines, size := 1+c.random.IntN(40), c.random.IntN(5000)
	text := fmt.Sprintf("GET /stream?lines=%d&size=%d&pause=%dms HTTP/1.1\r\nHost: soak\r\nX-Number: %d\r\n\r\n",
		lines, size, c.random.IntN(15), c.number)
	if err := c.send([]byte(text), 1, 0); err != nil {
		return err
	}
	s.figures.requests.Add(1)
	_, body, err := c.answer(c.number, false)
	if err != nil {
		return err
	}
	var expected bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&expected, "%d %s\n", i, strings.Repeat("s", size))
	}
	if !bytes.Equal(body, expected.Bytes()) {
		return fmt.Errorf("stream %d: %d bytes, not the %d that were asked for", c.number, len(body), expected.Len())
	}
	return nil
}

// visit is one request on a connection of its own, which the service closes.
func (s *soak) visit(network, address string, random *rand.Rand) error {
	c, err := dialWeb(network, address, random)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	r := c.post("/echo", c.body(3000), false, "Connection: close")
	if err := c.send(r.text, 1, 0); err != nil {
		return err
	}
	s.figures.visits.Add(1)
	if err := c.check(r, true); err != nil {
		return err
	}
	if _, err := c.in.ReadByte(); err != io.EOF {
		return fmt.Errorf("the end of a connection: %w", errors.Join(err, errors.New("no EOF")))
	}
	return nil
}

// order has the service do something, and decodes its answer.
func (c *webClient) order(path string, order, result any) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	r := c.post(path, body, false)
	if err := c.send(r.text, 1, 0); err != nil {
		return err
	}
	_, answer, err := c.answer(r.number, false)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, result)
}
