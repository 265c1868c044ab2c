//go:build unix

package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheDemoRestartsTwiceAndExitsWithSuccess(t *testing.T) {
	p := program(t, "-demo", "-restarts", "2", "-every", "300ms", "-clients", "8")
	require.Zero(t, p.exit())
	p.end()

	p.line(`^Service: pid \d+ on 127\.0\.0\.1:\d+\. Clients: 4 busy, 2 mostly idle, 2 short-lived\. Restarts: 2, one every 300ms\.$`)
	answered := 0
	for generation, restart := range map[string]string{"1": "-", "2": `\d+ ms`, "3": `\d+ ms`} {
		row := p.line(`^ +` + generation + ` +\d+ +(\d+) +\d+ +0 +0 +` + restart + `$`)
		answered += number(t, row[1])
	}
	total := p.line(`^2 restarts in [\d.]+ s: (\d+) requests answered, 0 failed\.$`)
	p.line(`^6 connections were dialled to be kept: 0 closed by the service, 0 re-dialled\.$`)
	hits := p.line(`^The service has counted (\d+) hits in 3 generations\.$`)
	assert.Positive(t, answered)
	assert.Equal(t, answered, number(t, total[1]), "the lines add up")
	assert.Equal(t, answered, number(t, hits[1]))
	p.line(`^Restart, from the signal to the first answer of the new generation: median \d+ ms, longest \d+ ms\.$`)
}

func TestTheDemoExitsWithFailureWhenTheServiceCrashes(t *testing.T) {
	p := program(t, "-demo", "-restarts", "1", "-every", "1h", "-clients", "4")
	service := number(t, p.line(`^Service: pid (\d+) `)[1])
	p.line(`^generation +pid`)
	signalTo(t, service, syscall.SIGKILL)
	require.Equal(t, 1, p.exit())
	p.end()
	require.Contains(t, p.output(), errCrashed.Error())
}

func TestAnInterruptedDemoStopsItsService(t *testing.T) {
	p := program(t, "-demo", "-restarts", "1", "-every", "1h", "-clients", "4")
	p.line(`^Service: pid `)
	signalTo(t, -p.command.Process.Pid, syscall.SIGINT)
	require.Equal(t, 1, p.exit())
	p.end()
	require.Contains(t, p.output(), "interrupted")
	require.Equal(t, 1, strings.Count(p.output(), ": stopped after"), "in the service's log")
}

// Whatever a client notices is an error of the demo, however well the rest went.
func TestASummaryWithAFailureOrAClosedConnectionIsAnError(t *testing.T) {
	p := program(t, "-addr", "127.0.0.1:0")
	serving := p.generation(1)
	seen := newTally(1)
	var out strings.Builder
	d := &demonstration{out: &out, tally: seen}
	c := visitor(t, serving.address)
	seen.answered(c.visit(t))
	require.NoError(t, d.summary(t.Context(), serving.address, 0))

	seen.closed()
	require.ErrorContains(t, d.summary(t.Context(), serving.address, 0), "1 connections were closed, 0 re-dialled")
	seen.dialled(true)
	require.ErrorContains(t, d.summary(t.Context(), serving.address, 0), "1 connections were closed, 1 re-dialled")
	seen.failed("client 7 (busy), request 7-1", assert.AnError)
	require.ErrorContains(t, d.summary(t.Context(), serving.address, 0), "1 requests failed")
	require.Contains(t, out.String(), "failed: client 7 (busy), request 7-1: "+assert.AnError.Error())

	signalTo(t, serving.pid, syscall.SIGTERM)
	require.Zero(t, p.exit())
	p.end()
}
