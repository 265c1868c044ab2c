package mitosis

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// readerSize is the size of Reader's buffer. It is a prime, so that messages of a
// fixed size never fill it exactly; see settle.
const readerSize = 4093

// readHalf is the reading side of a Conn. A reader that is waiting for bytes waits
// in the network poller, and is not woken for a cut: it looks at shut before it
// takes anything.
type readHalf struct {
	mu       sync.Mutex
	changed  sync.Cond
	shut     bool  // a cut is going on
	final    error // it is over, and why
	deadline time.Time

	pending  []byte // to be read before anything from the socket
	busy     bool   // something was delivered and has not been dealt with
	explicit bool   // Mark says what has been dealt with
	undealt  []byte // with explicit: what was delivered since
	reader   *bufio.Reader
	held     []byte // what reader held when it came back for more: in its own buffer
	content  int    // how much was in reader's buffer when it went on with its work
	first    byte   // the first byte in it
	long     []byte // the beginning of a line longer than that buffer
	bulk     bool   // WriteTo lets the kernel move bytes
	cut      bool   // and was interrupted by a cut
	expired  bool   // the socket's deadline is the cut's, not the application's

	// Of the call that holds Conn.reading.
	once     func(fd uintptr) bool
	p        []byte
	buffered bool // it came from reader
	settled  bool
	stopped  bool // it found the gate shut
	n        int
	err      error
}

// bufferedSource is what Reader reads from.
type bufferedSource struct{ c *Conn }

func (s bufferedSource) Read(p []byte) (int, error) { return s.c.read(p, true) }

func (c *Conn) read(p []byte, buffered bool) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	r := &c.r
	r.p, r.buffered, r.settled = p, buffered, false
	for {
		r.stopped, r.n, r.err = false, 0, nil
		err := c.rawRead()
		if err == nil && r.n > 0 {
			r.p = nil
			return r.n, nil
		}
		again, err := c.readStopped(err)
		if !again {
			r.p = nil
			return r.n, c.readError(err)
		}
	}
}

func (c *Conn) readError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return c.operror("read", err)
}

// readStopped waits at the gate, for a reader that found it shut or whose deadline
// passed meanwhile, and says whether it should try again.
func (c *Conn) readStopped(err error) (again bool, _ error) {
	r := &c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle()
	if err == nil && !r.stopped {
		r.fail()
		return false, r.err
	}
	timeout := errors.Is(err, os.ErrDeadlineExceeded)
	waited := false
	for r.shut && r.final == nil && (r.stopped || timeout) {
		waited = true
		r.changed.Wait()
	}
	if r.final != nil {
		return false, r.final
	}
	again = r.stopped
	if waited {
		// The cut took the time away in which it could have read what has come: that
		// is read now, even if the deadline has passed.
		r.stopped = false
		r.mu.Unlock()
		c.raw.Control(func(fd uintptr) { c.readOnce(fd) })
		r.mu.Lock()
		switch {
		case r.n > 0:
			return false, nil
		case r.err != nil:
			again, err = false, r.err
		case r.stopped:
			again = true
		}
	}
	if !again {
		r.fail()
	}
	return again, err
}

// take delivers n bytes of r.p to the application.
func (r *readHalf) take(n int) {
	r.n = n
	r.busy = true
	if r.explicit {
		r.undealt = append(r.undealt, r.p[:n]...)
	}
	r.content = len(r.held) + n
	if r.first = r.p[0]; len(r.held) > 0 {
		r.first = r.held[0]
	}
}

// settle notes that the reader is back, and what it has dealt with, with r.mu held.
func (r *readHalf) settle() {
	if r.settled {
		return
	}
	r.settled = true
	r.held = nil
	if r.buffered && r.reader != nil {
		// It is this goroutine that is in the middle of filling the buffer.
		n := r.reader.Buffered()
		r.held, _ = r.reader.Peek(n)
		switch {
		case len(r.long) > 0 && n > 0 && n == r.content:
			// Nothing was taken out: it still looks for the end of the line.
		case n == 0 && r.content == readerSize && len(r.p) == readerSize && r.p[readerSize-1] != '\n':
			// A full buffer was taken out at once, and it does not end a line. This is a
			// line longer than the buffer, and its beginning is in the hands of a
			// function of package bufio.
			r.long = append(r.long, r.p...)
		case n == 1 && r.content == readerSize && len(r.p) == readerSize-1 &&
			r.held[0] == '\r' && r.p[readerSize-2] == '\r' && r.p[readerSize-3] != '\n':
			// The same in ReadLine, which has put a carriage return at the end back to
			// the front, where the first byte was.
			r.long = append(append(r.long, r.first), r.p[:readerSize-2]...)
		default:
			r.long = nil
		}
	} else {
		r.long = nil
	}
	r.busy = false
	if r.shut {
		r.changed.Broadcast()
	}
}

// fail notes that reader gets no bytes but an error: then it gives away what it
// holds, which is in the application's hands from now on.
func (r *readHalf) fail() {
	if len(r.held)+len(r.long) > 0 && !r.explicit {
		r.held, r.long, r.busy = nil, nil, true
	}
}

// unread returns what the next generation has to read first, with r.mu held.
func (r *readHalf) unread() []byte {
	if r.explicit {
		return slices.Concat(r.undealt, r.pending)
	}
	return slices.Concat(r.long, r.held, r.pending)
}

// stop says whether nothing may be taken now, with r.mu held.
func (r *readHalf) stop() bool { return r.final != nil || r.shut }

func (c *Conn) mark(unread []byte) error {
	r := &c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.final != nil {
		return r.final
	}
	r.explicit = true
	r.undealt = append(r.undealt[:0:0], unread...)
	if r.reader != nil {
		if n := r.reader.Buffered(); n > 0 {
			held, _ := r.reader.Peek(n)
			r.undealt = append(r.undealt, held...)
		}
	}
	r.busy = false
	for r.shut && r.final == nil && len(r.undealt) > 0 {
		r.changed.Broadcast()
		r.changed.Wait()
	}
	if r.final != nil {
		return r.final
	}
	r.busy = len(r.undealt) > 0
	if r.shut {
		r.changed.Broadcast()
	}
	return nil
}

// freeze shuts the reading side: nothing more is taken from the socket.
func (c *Conn) freeze() {
	c.r.mu.Lock()
	c.r.shut = true
	if c.r.bulk {
		c.r.cut, c.r.expired = true, true
		c.inner.SetReadDeadline(past)
	}
	c.r.mu.Unlock()
	c.beginAbsorbing()
}

// awaitFrozen waits until what was read has been dealt with.
func (c *Conn) awaitFrozen(ctx context.Context) error {
	r := &c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy && !r.bulk || r.final != nil {
		return nil
	}
	return waitFor(ctx, &r.changed, func() bool { return !r.busy && !r.bulk || r.final != nil })
}

// waitFor waits, with cond.L held, until done says so.
func waitFor(ctx context.Context, cond *sync.Cond, done func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		cond.Broadcast()
	})
	defer stop()
	for !done() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		cond.Wait()
	}
	return nil
}

// WriteTo copies what is read to w until the end of the stream, as io.WriterTo
// says. Each piece counts as dealt with when w has taken it. Where w is a bare TCP
// connection the kernel moves the bytes, if it can.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if tcp, ok := w.(*net.TCPConn); ok {
		return c.spliceTo(tcp)
	}
	buffer := make([]byte, 32<<10)
	var total int64
	for {
		n, err := c.Read(buffer)
		if n > 0 {
			written, werr := w.Write(buffer[:n])
			total += int64(written)
			if werr == nil && written < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				c.Unread(buffer[written:n])
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// spliceTo lets the kernel move bytes, and is interrupted for a cut when it waits
// for more to come: then nothing is on its way.
func (c *Conn) spliceTo(w *net.TCPConn) (int64, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	r := &c.r
	var total int64
	for {
		r.mu.Lock()
		r.buffered, r.settled = false, false
		r.settle()
		for r.shut && r.final == nil {
			r.changed.Wait()
		}
		if r.final != nil {
			r.mu.Unlock()
			return total, c.operror("read", r.final)
		}
		if len(r.pending) > 0 {
			pending := r.pending
			r.pending, r.busy = nil, true
			r.mu.Unlock()
			n, err := w.Write(pending)
			total += int64(n)
			if err != nil {
				c.Unread(pending[n:])
				return total, err
			}
			continue
		}
		r.bulk = true
		r.mu.Unlock()
		n, err := w.ReadFrom(c.inner)
		total += n
		r.mu.Lock()
		cut := r.cut
		r.bulk, r.cut = false, false
		r.changed.Broadcast()
		r.mu.Unlock()
		if err == nil || !cut || !errors.Is(err, os.ErrDeadlineExceeded) {
			return total, err
		}
	}
}
