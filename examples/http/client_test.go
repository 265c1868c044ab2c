package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// badServer is a server that treats connections as it is told. It keeps none open at the end of the test.
func badServer(t *testing.T, treat func(conn net.Conn, reader *bufio.Reader)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				treat(conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln.Addr().String()
}

// correct reads a request and returns the answer that it should get.
func correct(reader *bufio.Reader) (answer, bool) {
	request, err := http.ReadRequest(reader)
	if err != nil {
		return answer{}, false
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return answer{}, false
	}
	sum := sha256.Sum256(body)
	return answer{Generation: 2, Request: request.Header.Get(requestHeader), SHA256: hex.EncodeToString(sum[:])}, true
}

// write answers a request.
func write(conn net.Conn, status, header string, a answer) {
	b, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(b), b)
}

func TestAClientNoticesEveryWayInWhichAServerFails(t *testing.T) {
	for name, test := range map[string]struct {
		treat func(net.Conn, answer)
		want  string
	}{
		"no answer":          {func(net.Conn, answer) {}, "no answer"},
		"half a header":      {func(c net.Conn, _ answer) { io.WriteString(c, "HTTP/1.1 200 O") }, "no answer"},
		"half an answer":     {func(c net.Conn, _ answer) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{") }, "half an answer"},
		"another status":     {func(c net.Conn, a answer) { write(c, "503 Service Unavailable", "", a) }, "503"},
		"not JSON":           {func(c net.Conn, _ answer) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") }, `"hi"`},
		"another request":    {func(c net.Conn, a answer) { a.Request = "9-9"; write(c, "200 OK", "", a) }, "9-9"},
		"another body":       {func(c net.Conn, a answer) { a.SHA256 = "00"; write(c, "200 OK", "", a) }, "hash"},
		"an old generation":  {func(c net.Conn, a answer) { a.Generation = 1; write(c, "200 OK", "", a) }, "generation 1"},
		"a second of itself": {func(c net.Conn, a answer) { write(c, "200 OK", "", a); write(c, "200 OK", "", a) }, "without being asked"},
	} {
		t.Run(name, func(t *testing.T) {
			address := badServer(t, func(conn net.Conn, reader *bufio.Reader) {
				if a, ok := correct(reader); ok {
					test.treat(conn, a)
				}
			})
			seen := newTally(1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := &client{number: 1, address: address, habit: habit{keepAlive: true, pause: time.Millisecond}, tally: seen, generation: 2}
			done := make(chan struct{})
			go func() { defer close(done); c.run(ctx) }()
			for limit := time.Now().Add(requestLimit); seen.counts().failed == 0 && time.Now().Before(limit); {
				time.Sleep(time.Millisecond) // a tally tells nobody; the limit bounds it
			}
			cancel()
			<-done
			require.NotZero(t, seen.counts().failed)
			assert.Contains(t, seen.described()[0], test.want)
			assert.Zero(t, seen.counts().redialled, "a failure is not a closed connection")
		})
	}
}

func TestAServerThatNobodyCanReachFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	c := &client{address: ln.Addr().String(), tally: newTally(1)}
	_, err = c.request()
	require.Error(t, err)
}

func TestAConnectionThatIsClosedBetweenRequestsIsDialledAgain(t *testing.T) {
	for name, test := range map[string]struct {
		header string
		want   counts
	}{
		"with notice":    {"Connection: close\r\n", counts{dialled: 2, redialled: 1, closed: 2}},
		"without notice": {"", counts{dialled: 2, redialled: 1, closed: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			address := badServer(t, func(conn net.Conn, reader *bufio.Reader) {
				if a, ok := correct(reader); ok {
					write(conn, "200 OK", test.header, a)
				}
			})
			c := &client{address: address, habit: habit{keepAlive: true}, tally: newTally(1)}
			for closed := 1; closed <= 2; closed++ {
				_, err := c.request()
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					defer cancel()
					for limit := time.Now().Add(requestLimit); c.tally.counts().closed < closed && time.Now().Before(limit); {
						time.Sleep(time.Millisecond) // see above
					}
				}()
				c.wait(ctx, requestLimit)
			}
			assert.Equal(t, test.want, c.tally.counts())
		})
	}
}

func TestAClientThatKeepsNoConnectionLosesNone(t *testing.T) {
	address := badServer(t, func(conn net.Conn, reader *bufio.Reader) {
		if a, ok := correct(reader); ok {
			write(conn, "200 OK", "Connection: close\r\n", a)
		}
	})
	c := &client{address: address, tally: newTally(1)}
	for range 2 {
		_, err := c.request()
		require.NoError(t, err)
	}
	assert.Equal(t, counts{}, c.tally.counts())
}
