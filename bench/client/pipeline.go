package client

import (
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// batch sends several requests on one connection without waiting for answers between them, cut at odd
// places: often just before or behind the border of two requests, so that the server holds an answered
// request and the first bytes of the next.
func (c *client) batch() {
	requests := c.again
	c.again = nil
	for range 2 + c.random.IntN(4) {
		if c.wanted() {
			requests = append(requests, c.compose())
			c.load.count(c.kind, func(n *Counts) { n.Requests++ })
		}
	}
	if len(requests) == 0 {
		return
	}
	start := time.Now()
	if err := c.dial(); err != nil {
		for range requests {
			c.load.failed(c.kind, reasonFor(err)+" while dialling", start, time.Now())
		}
		return
	}
	c.deadline()
	w := c.write(requests, start)
	for i, r := range requests {
		got, err := readAnswer(c.reader, r)
		if err != nil {
			c.hangUp()
			c.lost(requests[i:], w.begun(i), err, start)
			return
		}
		from := start.Add(time.Duration(w.complete[i].Load()))
		c.load.answered(c.kind, got.process, from, time.Now())
		if got.closes {
			c.load.event(c.kind, Told)
			c.hangUp()
			// What follows an answer that announces the end has not been processed: the protocol says so.
			c.again = requests[i+1:]
			again := w.begun(i + 1)
			c.load.count(c.kind, func(n *Counts) { n.Resent += again })
			return
		}
	}
	<-w.done
}

// lost deals with requests whose connection ended without an announcement. The first begun of them had
// been sent, at least in part.
func (c *client) lost(requests []*request, begun int, err error, start time.Time) {
	if begun == 0 {
		c.load.event(c.kind, ClosedIdle)
	}
	for range begun {
		c.load.failed(c.kind, err.Error(), start, time.Now())
	}
	c.again = requests[begun:]
}

// writing is a batch on its way.
type writing struct {
	start    time.Time
	starts   []int          // offset of each request
	ends     []int          // offset behind each request
	complete []atomic.Int64 // when the last byte of each request was written; nanoseconds since start
	offset   int            // behind the last byte that may have been sent
	stop     chan struct{}
	done     chan struct{}
}

// write begins to write the requests, piece by piece.
func (c *client) write(requests []*request, start time.Time) *writing {
	w := &writing{
		start:    start,
		complete: make([]atomic.Int64, len(requests)),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	var wire []byte
	for _, r := range requests {
		w.starts = append(w.starts, len(wire))
		for _, p := range r.pieces {
			wire = append(wire, p.bytes...)
		}
		w.ends = append(w.ends, len(wire))
	}
	go w.run(c.conn, c.cut(wire, w.ends))
	return w
}

// cut cuts the batch at odd places.
func (c *client) cut(wire []byte, ends []int) []piece {
	cuts := []int{0, len(wire)}
	for _, end := range ends {
		if c.random.IntN(2) == 0 {
			cuts = append(cuts, end-3+c.random.IntN(7))
		}
	}
	for range c.random.IntN(3) {
		cuts = append(cuts, c.random.IntN(len(wire)))
	}
	slices.Sort(cuts)
	var pieces []piece
	for i := 1; i < len(cuts) && cuts[i-1] < len(wire); i++ {
		if from, to := cuts[i-1], min(cuts[i], len(wire)); from < to {
			pieces = append(pieces, piece{pause: c.hesitation(len(pieces)), bytes: wire[from:to]})
		}
	}
	return pieces
}

// hesitation is the pause before a piece: mostly short, now and then long enough to look idle.
func (c *client) hesitation(piece int) time.Duration {
	switch {
	case piece == 0:
		return 0
	case c.random.IntN(8) == 0:
		return c.upTo(150 * time.Millisecond)
	default:
		return c.upTo(20 * time.Millisecond)
	}
}

func (w *writing) run(conn net.Conn, pieces []piece) {
	defer close(w.done)
	request := 0
	for _, p := range pieces {
		select {
		case <-time.After(p.pause):
		case <-w.stop:
			return
		}
		w.offset += len(p.bytes)
		for ; request < len(w.ends) && w.ends[request] <= w.offset; request++ {
			w.complete[request].Store(int64(time.Since(w.start)))
		}
		// The reader finds out why a write fails.
		if _, err := conn.Write(p.bytes); err != nil {
			return
		}
	}
}

// begun stops the writing and returns how many requests, counted from the given one, have been sent at
// least in part. The connection must be closed already.
func (w *writing) begun(from int) int {
	close(w.stop)
	<-w.done
	begun := 0
	for _, start := range w.starts[from:] {
		if start < w.offset {
			begun++
		}
	}
	return begun
}
