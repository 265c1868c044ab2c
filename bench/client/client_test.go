package client_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/bench/client"
	"github.com/bhuthesh/mitosis/bench/service"
)

// load runs clients until each has made its requests.
func load(t *testing.T, server *httptest.Server, kind client.Kind, clients, requests int) *client.Report {
	t.Helper()
	return client.Start(client.Options{
		Address:  server.Listener.Addr().String(),
		Mix:      client.Mix{kind: clients},
		Requests: requests,
	}).Wait()
}

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// hijack takes the connection from the server after the request has been read.
func hijack(t *testing.T, w http.ResponseWriter, r *http.Request) (net.Conn, []byte) {
	body, err := io.ReadAll(r.Body)
	assert.NoError(t, err)
	conn, _, err := http.NewResponseController(w).Hijack()
	if !assert.NoError(t, err) {
		panic(http.ErrAbortHandler)
	}
	return conn, service.Answer(r.Header.Get(service.HeaderRequest), body)
}

func TestAServerThatDoesItsWorkHasNoFailures(t *testing.T) {
	server := serve(t, service.Handler(1).ServeHTTP)
	for _, kind := range client.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			report := load(t, server, kind, 4, 3)
			assert.Equal(t, client.Counts{Requests: 12, Answered: 12}, report.Counts)
			assert.Empty(t, report.Reasons)
			assert.Len(t, report.Samples, 12)
			assert.Empty(t, report.Events)
		})
	}
}

func TestARequestThatIsNotAnsweredIsAFailure(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _ := hijack(t, w, r)
		assert.NoError(t, conn.Close())
	})
	for _, kind := range client.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			report := load(t, server, kind, 2, 2)
			assert.Equal(t, 4, report.Counts.Requests)
			assert.Equal(t, 4, report.Counts.Failed)
			assert.Zero(t, report.Counts.Answered)
			assert.Zero(t, report.Counts.ClosedIdle)
		})
	}
}

func TestAnAnswerThatIsCutShortIsAFailure(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, answer := hijack(t, w, r)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer)+1, answer)
		assert.NoError(t, conn.Close())
	})
	report := load(t, server, client.Busy, 1, 3)
	assert.Equal(t, 3, report.Counts.Failed)
	assert.Equal(t, map[string]int{"busy: closed in the body of the answer": 3}, report.Reasons)
}

func TestTheAnswerToAnotherRequestIsAFailure(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(service.HeaderRequest, "busy-1-1")
		service.Handler(1).ServeHTTP(w, r)
	})
	report := load(t, server, client.Busy, 1, 3)
	assert.Equal(t, 1, report.Counts.Answered)
	assert.Equal(t, map[string]int{"busy: wrong answer": 2}, report.Reasons)
}

func TestAnAnswerToAChangedBodyIsAFailure(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		service.Handler(1).ServeHTTP(w, r)
	})
	report := load(t, server, client.Upload, 1, 2)
	assert.Equal(t, map[string]int{"upload: wrong answer": 2}, report.Reasons)
}

func TestAnAnswerThatComesTwiceIsAFailure(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, answer := hijack(t, w, r)
		for range 2 {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
		}
	})
	report := load(t, server, client.Slow, 1, 1)
	assert.Equal(t, 1, report.Counts.Answered)
	assert.Equal(t, map[string]int{"slow: bytes that nobody asked for": 1}, report.Reasons)
}

func TestAnAnswerThatDoesNotComeIsAFailure(t *testing.T) {
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	report := client.Start(client.Options{
		Address:  server.Listener.Addr().String(),
		Mix:      client.Mix{client.Busy: 1},
		Requests: 1,
		Timeout:  50 * time.Millisecond,
	}).Wait()
	assert.Equal(t, map[string]int{"busy: timeout before the answer": 1}, report.Reasons)
}

func TestAServerThatIsNotThereIsAFailure(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	report := load(t, server, client.Short, 1, 2)
	assert.Equal(t, map[string]int{"short: refused while dialling": 2}, report.Reasons)
}

func TestAnAnnouncedEndIsNoFailure(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		service.Handler(1).ServeHTTP(w, r)
	})
	report := load(t, server, client.Busy, 2, 5)
	assert.Equal(t, client.Counts{Requests: 10, Answered: 10, Told: 10, Redialled: 8}, report.Counts)
}

func TestPipelinedRequestsBehindAnAnnouncedEndAreSentAgain(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		service.Handler(1).ServeHTTP(w, r)
	})
	report := load(t, server, client.Pipelined, 4, 10)
	assert.Equal(t, 40, report.Counts.Requests)
	assert.Equal(t, 40, report.Counts.Answered)
	assert.Equal(t, 40, report.Counts.Told)
	assert.Equal(t, 36, report.Counts.Redialled)
	assert.NotZero(t, report.Counts.Resent)
	assert.Zero(t, report.Counts.Failed)
}

func TestPipelinedRequestsBehindALostOneFailWithIt(t *testing.T) {
	var served atomic.Int64
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1)%3 == 0 {
			conn, _ := hijack(t, w, r)
			assert.NoError(t, conn.Close())
			return
		}
		service.Handler(1).ServeHTTP(w, r)
	})
	report := load(t, server, client.Pipelined, 4, 10)
	assert.Equal(t, 40, report.Counts.Requests)
	assert.Equal(t, 40, report.Counts.Answered+report.Counts.Failed)
	assert.GreaterOrEqual(t, report.Counts.Failed, int(served.Load()/3))
}

func TestAConnectionClosedBetweenRequestsWasClosedWhileIdle(t *testing.T) {
	server := httptest.NewUnstartedServer(service.Handler(1))
	server.Config.IdleTimeout = time.Millisecond
	server.Start()
	defer server.Close()
	report := load(t, server, client.Idle, 2, 2)
	assert.Equal(t, client.Counts{Requests: 4, Answered: 4, ClosedIdle: 4, Redialled: 2}, report.Counts)
}

func TestAConnectionThatIsNotClosedOnRequestIsNoticed(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, answer := hijack(t, w, r)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
		// It stays open until the client gives up.
		_, _ = bufio.NewReader(conn).ReadByte()
		assert.NoError(t, conn.Close())
	})
	report := client.Start(client.Options{
		Address:  server.Listener.Addr().String(),
		Mix:      client.Mix{client.Short: 1},
		Requests: 1,
		Timeout:  100 * time.Millisecond,
	}).Wait()
	assert.Equal(t, client.Counts{Requests: 1, Answered: 1, LeftOpen: 1}, report.Counts)
}

func TestANewProcessIsSeenByItsFirstAnswer(t *testing.T) {
	var process atomic.Int64
	process.Store(1)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		w.Header().Set(service.HeaderProcess, strconv.FormatInt(process.Load(), 10))
		_, _ = w.Write(service.Answer(r.Header.Get(service.HeaderRequest), body))
	})
	running := client.Start(client.Options{
		Address: server.Listener.Addr().String(),
		Mix:     client.Mix{client.Busy: 1},
		Pause:   time.Millisecond,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	first, _, err := running.Newcomer(ctx, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, first)
	known := running.Processes()
	changed := time.Now()
	process.Store(2)
	second, at, err := running.Newcomer(ctx, known)
	require.NoError(t, err)
	assert.Equal(t, 2, second)
	assert.True(t, at.After(changed))
	running.Stop()
	report := running.Wait()
	assert.Zero(t, report.Counts.Failed)
	assert.Equal(t, report.Counts.Requests, report.Counts.Answered)
}

func TestALoadEndsByItself(t *testing.T) {
	server := serve(t, service.Handler(1).ServeHTTP)
	report := client.Start(client.Options{
		Address:  server.Listener.Addr().String(),
		Mix:      client.NewMix(1),
		Duration: 300 * time.Millisecond,
		Pause:    10 * time.Millisecond,
	}).Wait()
	assert.NotZero(t, report.Counts.Answered)
	assert.Zero(t, report.Counts.Failed)
	assert.Less(t, report.Length, 5*time.Second)
}

func TestAMixHasAllKindsAndItsTotal(t *testing.T) {
	for _, total := range []int{7, 20, 30, 229, 1000} {
		mix := client.NewMix(total)
		assert.Equal(t, total, mix.Total(), "%d clients", total)
		for _, kind := range client.Kinds {
			assert.Positive(t, mix[kind], "%s of %d clients", kind, total)
		}
	}
}

func TestQuantilesAreValuesThatOccurred(t *testing.T) {
	values := []time.Duration{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	assert.Equal(t, time.Duration(5), client.Quantile(values, 0.5))
	assert.Equal(t, time.Duration(10), client.Quantile(values, 0.99))
	assert.Equal(t, time.Duration(1), client.Quantile(values, 0))
	assert.Equal(t, time.Duration(10), client.Quantile(values, 1))
	assert.Zero(t, client.Quantile(nil, 0.5))
}

func TestAParkedClientAsksAtTheBeginningAndAtTheEndOnOneConnection(t *testing.T) {
	server := serve(t, service.Handler(1).ServeHTTP)
	load := client.Start(client.Options{Address: server.Listener.Addr().String(), Mix: client.Mix{client.Parked: 3}})
	require.Eventually(t, func() bool { return load.Counts().Answered == 3 }, 10*time.Second, time.Millisecond)
	load.Stop()
	report := load.Wait()
	assert.Equal(t, client.Counts{Requests: 6, Answered: 6}, report.Counts)
	assert.Empty(t, report.Events)
}

func TestAParkedClientNoticesThatItsConnectionIsClosed(t *testing.T) {
	server := httptest.NewUnstartedServer(service.Handler(1))
	server.Config.IdleTimeout = time.Millisecond
	server.Start()
	defer server.Close()
	load := client.Start(client.Options{Address: server.Listener.Addr().String(), Mix: client.Mix{client.Parked: 3}})
	require.Eventually(t, func() bool { return load.Counts().ClosedIdle == 3 }, 10*time.Second, time.Millisecond)
	load.Stop()
	assert.Equal(t, client.Counts{Requests: 6, Answered: 6, Redialled: 3, ClosedIdle: 3}, load.Wait().Counts)
}
