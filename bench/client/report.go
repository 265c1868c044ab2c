package client

import (
	"slices"
	"time"
)

// Counts are what clients have seen.
type Counts struct {
	Requests   int `json:"requests"`    // that clients set out to make, each counted once
	Answered   int `json:"answered"`    // fully and correctly
	Failed     int `json:"failed"`      // sent, or tried to be sent, without a full and correct answer
	ClosedIdle int `json:"closed_idle"` // connections closed unannounced while no request was under way
	Told       int `json:"told"`        // connections whose end was announced by "Connection: close"
	Redialled  int `json:"redialled"`   // connections of keep-alive clients beyond the first of each
	Resent     int `json:"resent"`      // pipelined requests behind a "Connection: close", sent once more
	LeftOpen   int `json:"left_open"`   // connections that the server did not close although it was asked to
}

// Add adds other to c.
func (c *Counts) Add(other Counts) {
	c.Requests += other.Requests
	c.Answered += other.Answered
	c.Failed += other.Failed
	c.ClosedIdle += other.ClosedIdle
	c.Told += other.Told
	c.Redialled += other.Redialled
	c.Resent += other.Resent
	c.LeftOpen += other.LeftOpen
}

// Sample is one request that has ended. Times count from the start of the load.
type Sample struct {
	Kind   Kind
	Start  time.Duration // when the client wanted to send it: a dial that it needed is part of its time
	End    time.Duration
	Failed string // why it failed; empty for one that was answered
}

// Latency returns the time that the request took.
func (s Sample) Latency() time.Duration { return s.End - s.Start }

// Event is something that happened to a connection. Times count from the start of the load.
type Event struct {
	At   time.Duration
	Kind Kind
	What What
}

// What names an event.
type What string

// The events.
const (
	Redialled  What = "re-dialled"
	ClosedIdle What = "closed while idle"
	Told       What = "told to close"
)

// Report is all that a load has seen.
type Report struct {
	Start   time.Time
	Length  time.Duration
	Counts  Counts
	ByKind  map[Kind]Counts
	Reasons map[string]int // of failures, "kind: reason"
	Samples []Sample
	Events  []Event
}

// Latencies returns the times, sorted, of the answered requests that choose accepts.
func (r *Report) Latencies(choose func(Sample) bool) []time.Duration {
	var latencies []time.Duration
	for _, sample := range r.Samples {
		if sample.Failed == "" && choose(sample) {
			latencies = append(latencies, sample.Latency())
		}
	}
	slices.Sort(latencies)
	return latencies
}

// Quantile returns the smallest of the sorted values that is not exceeded by the share q of them; 0 if
// there are none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
