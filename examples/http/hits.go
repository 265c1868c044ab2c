package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
)

// hits counts requests over all generations. The number travels at the cut. An old generation that drains counts on,
// and at its end writes how many came late into a pipe that all generations have; the one that serves adds them.
type hits struct {
	mu    sync.Mutex
	total int64
	saved int64 // what the next generation got

	late      *os.File // read end
	lateWrite *os.File
	collected chan struct{} // closed when nobody here reads the pipe
}

// countHits inherits the counter, or begins at 0. Ready loads it.
func countHits(m *mitosis.Registry) (*hits, error) {
	h := &hits{}
	if err := m.State("hits", mitosis.Locked(&h.mu, h)); err != nil {
		return nil, err
	}
	var err error
	if m.Generation() > 1 {
		if h.late, err = m.File("late hits, read end"); err != nil {
			return nil, err
		}
		h.lateWrite, err = m.File("late hits, write end")
		return h, err
	}
	if h.late, h.lateWrite, err = os.Pipe(); err != nil {
		return nil, err
	}
	if err := m.AddFile("late hits, read end", h.late); err != nil {
		return nil, err
	}
	return h, m.AddFile("late hits, write end", h.lateWrite)
}

// Save writes the number. The registry holds the lock.
func (h *hits) Save(w io.Writer) error {
	h.saved = h.total
	return mitosis.Gob(&h.total).Save(w)
}

// Load reads the number.
func (h *hits) Load(r io.Reader) error { return mitosis.Gob(&h.total).Load(r) }

func (h *hits) add(n int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total += n
	return h.total
}

func (h *hits) count() int64 { return h.add(0) }

// collect adds late hits of older generations from now on.
func (h *hits) collect() {
	h.collected = make(chan struct{})
	go func() {
		defer close(h.collected)
		for {
			var n int64 // eight bytes are written and read at once: a pipe does not tear them
			if binary.Read(h.late, binary.BigEndian, &n) != nil {
				return
			}
			h.add(n)
		}
	}()
}

// handOn passes on what was counted after the cut. It is called when nothing more will be.
func (h *hits) handOn() error {
	if err := h.late.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("late hits: %w", err)
	}
	<-h.collected
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := binary.Write(h.lateWrite, binary.BigEndian, h.total-h.saved); err != nil {
		return errors.Join(fmt.Errorf("%d late hits are lost", h.total-h.saved), err)
	}
	return nil
}
