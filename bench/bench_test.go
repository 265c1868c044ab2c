package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/bench/client"
	"github.com/bhuthesh/mitosis/bench/variants"
)

func TestMain(m *testing.M) {
	variants.Serve(os.Args[1:])
	os.Exit(m.Run())
}

// small is a plan that ends soon. What happens to its requests is a matter of luck, except in the control.
var small = plan{
	restarts: 2,
	every:    300 * time.Millisecond,
	steady:   time.Second,
	mix:      client.NewMix(14),
	pause:    10 * time.Millisecond,
	seed:     1,
}

func measured(t *testing.T, name string) *result {
	t.Helper()
	require.NoError(t, variants.Adopt())
	v, err := variants.Named(name)
	require.NoError(t, err)
	if reason := v.Missing(); reason != "" {
		t.Skip(reason)
	}
	r, err := measure(t.Context(), v, small)
	require.NoError(t, err)
	assert.Equal(t, r.Counts.Requests, r.Counts.Answered+r.Counts.Failed)
	for _, kind := range client.Kinds {
		assert.NotZero(t, r.ByKind[kind].Answered, kind)
	}
	return r
}

func TestParkedClientsKeepTheirConnectionsInHTTPX(t *testing.T) {
	require.NoError(t, variants.Adopt())
	v, err := variants.Named("httpx")
	require.NoError(t, err)
	p := small
	p.mix = client.Mix{client.Busy: 1, client.Parked: 20}
	r, err := measure(t.Context(), v, p)
	require.NoError(t, err)
	assert.Equal(t, client.Counts{Requests: 40, Answered: 40}, r.ByKind[client.Parked])
}

func TestTheControlLosesNothing(t *testing.T) {
	r := measured(t, "control")
	assert.Empty(t, r.Restarts)
	assert.Equal(t, client.Counts{Requests: r.Counts.Requests, Answered: r.Counts.Requests}, r.Counts)
	assert.Empty(t, r.Reasons)
	assert.NotZero(t, r.Latency.Steady.Requests)
	assert.NotZero(t, r.Latency.Restarting.Requests)
}

func TestEachRestartBringsANewProcessAndEndsTheOldOne(t *testing.T) {
	for _, v := range variants.All() {
		if !v.Restarts {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			r := measured(t, v.Name)
			require.Len(t, r.Restarts, small.restarts)
			for _, one := range r.Restarts {
				assert.GreaterOrEqual(t, one.At, inMilliseconds(small.steady))
				assert.Positive(t, one.Answered)
				assert.Positive(t, one.Ended)
			}
			assert.Zero(t, r.Early, "failed before the first restart: %v", r.Reasons)
		})
	}
}

func TestTheResultsAreWrittenAsTableFiguresAndPlot(t *testing.T) {
	directory := t.TempDir()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{
		"-variants", "control,shutdown", "-restarts", "2", "-every", "300ms", "-steady", "1s",
		"-clients", "7", "-pause", "10ms", "-out", directory,
	}, &out))

	table, err := os.ReadFile(filepath.Join(directory, "bench.md"))
	require.NoError(t, err)
	assert.Contains(t, out.String(), string(table))
	assert.Contains(t, string(table), "| control | 0 |")
	assert.Contains(t, string(table), "| shutdown | 2 |")

	text, err := os.ReadFile(filepath.Join(directory, "bench.json"))
	require.NoError(t, err)
	var figures results
	require.NoError(t, json.Unmarshal(text, &figures))
	require.Len(t, figures.Variants, 2)
	assert.Zero(t, figures.Variants[0].Counts.Failed)
	assert.Len(t, figures.Variants[1].Restarts, 2)

	drawing, err := os.Open(filepath.Join(directory, "bench.svg"))
	require.NoError(t, err)
	defer drawing.Close()
	assert.Contains(t, texts(t, drawing), "shutdown: latency in ms")
}

// texts returns the texts of a well-formed XML document.
func texts(t *testing.T, document io.Reader) []string {
	t.Helper()
	var found []string
	decoder := xml.NewDecoder(document)
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		if text, ok := token.(xml.CharData); ok {
			found = append(found, strings.TrimSpace(string(text)))
		}
	}
}

func TestAVariantThatDoesNotExistIsAnError(t *testing.T) {
	err := run(t.Context(), []string{"-variants", "apache"}, io.Discard)
	require.ErrorContains(t, err, `no variant "apache"`)
}

func TestASetUpThatMeasuresNothingIsAnError(t *testing.T) {
	for _, args := range [][]string{{"-restarts", "0"}, {"-every", "0s"}, {"-steady", "10ms"}, {"extra"}} {
		assert.Error(t, run(t.Context(), args, io.Discard), args)
	}
}
