package main

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for an event that must come.
const patience = 20 * time.Second

// A journal keeps everything that has been received from somewhere, and lets tests wait for more.
type journal[T any] struct {
	mu      sync.Mutex
	entries []T
	changed chan struct{} // closed at the next change
	ended   bool
}

func newJournal[T any]() *journal[T] { return &journal[T]{changed: make(chan struct{})} }

func (j *journal[T]) add(entry T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, entry)
	close(j.changed)
	j.changed = make(chan struct{})
}

// end says that no more will come.
func (j *journal[T]) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended = true
	close(j.changed)
	j.changed = make(chan struct{})
}

// all returns the entries so far. They are not to be changed.
func (j *journal[T]) all() []T {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.entries[:len(j.entries):len(j.entries)]
}

func (j *journal[T]) hasEnded() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended
}

// find waits for an entry with the number from or higher that matches, and returns it and the number after it.
func (j *journal[T]) find(from int, limit time.Duration, match func(T) bool) (entry T, next int, ok bool) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		j.mu.Lock()
		entries, changed, ended := j.entries, j.changed, j.ended
		j.mu.Unlock()
		for ; from < len(entries); from++ {
			if match(entries[from]) {
				return entries[from], from + 1, true
			}
		}
		if ended {
			return entry, from, false
		}
		select {
		case <-changed:
		case <-timeout.C:
			return entry, from, false
		}
	}
}

// await is find that must succeed.
func (j *journal[T]) await(t *testing.T, what string, from int, match func(T) bool) (entry T, next int) {
	t.Helper()
	entry, next, ok := j.find(from, patience, match)
	require.True(t, ok, "waited in vain for %s", what)
	return entry, next
}

// awaitEnd waits until no more can come.
func (j *journal[T]) awaitEnd(t *testing.T, what string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		j.mu.Lock()
		changed, ended := j.changed, j.ended
		j.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			require.FailNow(t, "waited in vain for "+what)
		}
	}
}
