package main

import (
	"fmt"
	"sync"
	"time"
)

// counts is what clients have seen.
type counts struct {
	answered  int // in full, with the right number and hash
	byOlder   int // of those, by a generation that was no longer the newest
	failed    int // sent, or could not even be sent, and no such answer
	dialled   int // connections that are to be kept
	redialled int // of those, because the server had closed the one before
	closed    int // connections that were to be kept, by the server, announced or not
}

func (c counts) minus(earlier counts) counts {
	return counts{
		answered:  c.answered - earlier.answered,
		byOlder:   c.byOlder - earlier.byOlder,
		failed:    c.failed - earlier.failed,
		dialled:   c.dialled - earlier.dialled,
		redialled: c.redialled - earlier.redialled,
		closed:    c.closed - earlier.closed,
	}
}

// arrival is the first answer of a generation.
type arrival struct {
	answer
	at time.Time
}

// tally collects what all clients see.
type tally struct {
	arrivals chan arrival // with room for every generation

	mu       sync.Mutex
	seen     counts
	newest   int      // generation
	failures []string // the first few
}

// maxFailures is how many failures are described; all are counted.
const maxFailures = 5

func newTally(generations int) *tally { return &tally{arrivals: make(chan arrival, generations)} }

func (t *tally) answered(a answer) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.answered++
	switch {
	case a.Generation < t.newest:
		t.seen.byOlder++
	case a.Generation > t.newest:
		t.newest = a.Generation
		t.arrivals <- arrival{a, now}
	}
}

func (t *tally) failed(who string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.failed++
	if len(t.failures) < maxFailures {
		t.failures = append(t.failures, fmt.Sprintf("%s: %v", who, err))
	}
}

func (t *tally) dialled(again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.dialled++
	if again {
		t.seen.redialled++
	}
}

func (t *tally) closed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.closed++
}

// counts returns what has been seen so far.
func (t *tally) counts() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}

// described returns the first few failures.
func (t *tally) described() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.failures...)
}
