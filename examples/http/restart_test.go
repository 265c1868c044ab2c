//go:build unix

package main

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPostToRestartIsAnsweredAndRestartsTheService(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0")
	serving := p.generation(1)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	dialled := 0
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{ConnectStart: func(string, string) { dialled++ }})
	post := func(origin string) (status int) {
		request, err := http.NewRequestWithContext(trace, http.MethodPost, "http://"+serving.address+"/restart", nil)
		require.NoError(t, err)
		request.Header.Set("Origin", origin)
		response, err := transport.RoundTrip(request)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		response.Body.Close()
		return response.StatusCode
	}
	pids := []int{serving.pid}
	for generation := 2; generation <= 3; generation++ {
		require.Equal(t, http.StatusForbidden, post("http://example.org"))
		require.Equal(t, http.StatusAccepted, post("http://"+serving.address))
		serving = p.generation(generation)
		pids = append(pids, serving.pid)
	}
	require.Equal(t, 1, dialled)

	transport.CloseIdleConnections()
	signalTo(t, serving.pid, syscall.SIGTERM)
	p.end()
	require.Zero(t, p.exit())
	for _, pid := range pids[1:] {
		hasEnded(t, pid)
	}
}
