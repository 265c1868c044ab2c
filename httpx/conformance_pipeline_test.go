//go:build unix

package httpx_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pipeline is a series of requests that are sent without waiting for responses.
type pipeline struct {
	text    string
	borders []int // where requests end
}

func newPipeline(n int, request func(i int) string) pipeline {
	var p pipeline
	for i := range n {
		p.text += request(i)
		p.borders = append(p.borders, len(p.text))
	}
	return p
}

// complete returns how many requests there are before a position.
func (p *pipeline) complete(at int) (n int) {
	for _, border := range p.borders {
		if border <= at {
			n++
		}
	}
	return n
}

// whole is the exchange without any pause.
func (p *pipeline) whole() *exchange {
	return &exchange{steps: append([]step{send(p.text)}, p.answers(len(p.borders))...)}
}

func (p *pipeline) answers(n int) (all []step) {
	for range n {
		all = append(all, answer("POST"))
	}
	return all
}

// cutAt is the exchange with a pause, before the last but one step. If it is
// settled, all that can be answered has been then.
func (p *pipeline) cutAt(at int, settled bool) (e *exchange, pause int) {
	e = &exchange{}
	before, answered := p.text[:at], 0
	e.steps = append(e.steps, send(before))
	if settled && at > 0 {
		answered = p.complete(at)
		e.steps = append(e.steps, p.answers(answered)...)
		e.steps = append(e.steps, func(k *talk) { k.chain.awaitState(1, http.StateIdle, answered) })
	}
	pause = len(e.steps)
	e.steps = append(e.steps, send(p.text[at:]))
	e.steps = append(e.steps, p.answers(len(p.borders)-answered)...)
	return e, pause
}

// compare splits at each of the positions.
func (p *pipeline) compare(t *testing.T, positions []int) {
	want := p.whole().play(t, situation{bare: true})
	require.Equal(t, len(p.borders)+2, strings.Count(want.received, "Date: now"), "two are those of the probe")
	require.Equal(t, want, p.whole().play(t, situation{}))
	for _, at := range positions {
		for _, settled := range []bool{false, true} {
			e, pause := p.cutAt(at, settled)
			got := e.play(t, situation{splits: []int{pause}})
			require.Equal(t, want, got, "cut at %d (settled %v)", at, settled)
		}
	}
}

// requests are the kinds of requests in a pipeline.
var requests = map[string]func(i int) string{
	"GET": func(i int) string { return fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i) },
	"POST": func(i int) string {
		return fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: x\r\nUser-Agent: a pipeline of long requests\r\nContent-Length: 5\r\n\r\nhello", i)
	},
	"chunked": func(i int) string {
		return fmt.Sprintf("PUT /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", i)
	},
	"mixed": func(i int) string {
		return []string{
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
			"GET /status/500 HTTP/1.1\r\nHost: x\r\n\r\n",
			"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		}[i%5]
	},
}

func TestTwoPipelinedRequestsAreCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(2, request)
			var positions []int
			for at := range len(p.text) + 1 {
				positions = append(positions, at)
			}
			p.compare(t, positions)
		})
	}
}

func TestLongPipelinesAreCutAroundTheBordersOfRequests(t *testing.T) {
	t.Parallel()
	for name, request := range requests {
		for n, every := range map[int]int{5: 1, 50: 12} { // the latter are larger than the buffer of http.Server
			t.Run(fmt.Sprint(n, " of ", name), func(t *testing.T) {
				t.Parallel()
				p := newPipeline(n, request)
				var positions []int
				for i := 0; i < n; i += every {
					for distance := -5; distance <= 5; distance++ {
						positions = append(positions, min(p.borders[i]+distance, len(p.text)))
					}
				}
				for at := 4096 - 5; at <= 4096+5 && at < len(p.text); at++ {
					positions = append(positions, at)
				}
				p.compare(t, positions)
			})
		}
	}
}
