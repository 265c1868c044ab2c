//go:build unix

package main

import (
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
	pids := []int{serving.pid}
	for generation := 2; generation <= 3; generation++ {
		request, err := http.NewRequestWithContext(trace, http.MethodPost, "http://"+serving.address+"/restart", nil)
		require.NoError(t, err)
		response, err := transport.RoundTrip(request)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusAccepted, response.StatusCode)
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
