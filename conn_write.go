package mitosis

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// flushTimeout bounds how long a closed connection is kept for bytes that Write had
// accepted during a cut and that a slow peer has not taken yet.
const flushTimeout = time.Minute

// writeHalf is the writing side of a Conn.
type writeHalf struct {
	mu       sync.Mutex
	changed  sync.Cond
	absorb   bool  // a cut begins: what the peer does not take at once becomes unsent
	shut     bool  // what is unsent has been counted
	final    error // it is over, and why
	deadline time.Time

	unsent   []byte // accepted, and to be sent before anything else
	closing  bool   // CloseWrite was called while something was unsent
	absorbed bool   // the rest of the write under way became unsent
	bulk     bool   // ReadFrom lets the kernel move bytes
	cut      bool   // and was interrupted by a cut

	// Of the call that holds Conn.writing.
	once    func(fd uintptr) bool
	p       []byte
	active  bool
	stopped bool // it found the gate shut
	waited  bool // it waited for the outcome of a cut
	n       int
	err     error
}

func (w *writeHalf) stop() bool { return w.final != nil || w.shut }

func (c *Conn) write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	w := &c.w
	w.mu.Lock()
	w.p, w.n, w.waited, w.active = p, 0, false, true
	w.mu.Unlock()
	for {
		w.stopped, w.err = false, nil
		err := c.rawWrite()
		if err == nil && w.err == nil && !w.stopped {
			return c.writeDone(nil)
		}
		again, err := c.writeStopped(err)
		if !again {
			return c.writeDone(err)
		}
	}
}

func (c *Conn) writeDone(err error) (int, error) {
	w := &c.w
	w.mu.Lock()
	n := w.n
	w.p, w.active = nil, false
	if w.absorbed {
		w.absorbed, err = false, nil
		c.inner.SetWriteDeadline(w.deadline)
	}
	w.mu.Unlock()
	if err != nil {
		err = c.operror("write", err)
	}
	return n, err
}

// writeStopped waits at the gate, and says whether the write should be tried again.
func (c *Conn) writeStopped(err error) (again bool, _ error) {
	w := &c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		err = w.err
	}
	if w.absorbed {
		return false, nil
	}
	for w.shut && w.final == nil {
		w.waited = true
		w.changed.Wait()
	}
	switch {
	case w.final != nil:
		return false, w.final
	case w.stopped:
		return true, nil
	case w.waited && errors.Is(err, os.ErrDeadlineExceeded):
		// The cut took the time away in which it could have written.
		w.mu.Unlock()
		c.raw.Control(func(fd uintptr) { c.writeOnce(fd) })
		w.mu.Lock()
		if w.err != nil {
			return false, w.err
		}
		if w.n == len(w.p) && len(w.unsent) == 0 {
			return false, nil
		}
	}
	return false, err
}

// ReadFrom copies from src until its end, as io.ReaderFrom says. Where src is a
// file the kernel moves the bytes, if it can; a cut may come in between.
func (c *Conn) ReadFrom(src io.Reader) (int64, error) {
	if n, ok, err := c.sendFile(src); ok {
		return n, err
	}
	buffer := make([]byte, 32<<10)
	var total int64
	for {
		n, err := src.Read(buffer)
		if n > 0 {
			written, werr := c.Write(buffer[:n])
			total += int64(written)
			if werr != nil {
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

// sendFile lets the kernel send a file. When it is interrupted the offset of the
// file says how far it came.
func (c *Conn) sendFile(src io.Reader) (total int64, ok bool, err error) {
	limited, isLimited := src.(*io.LimitedReader)
	inner := src
	if isLimited {
		inner = limited.R
	}
	file, isFile := inner.(*os.File)
	tcp, isTCP := c.inner.(*net.TCPConn)
	if !isFile || !isTCP {
		return 0, false, nil
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0, false, nil // what is read from a pipe cannot be put back
	}
	if _, err := c.Write(nil); err != nil { // what an earlier generation left comes first
		return 0, true, err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	w := &c.w
	for {
		w.mu.Lock()
		for w.shut && w.final == nil {
			w.changed.Wait()
		}
		if w.final != nil {
			w.mu.Unlock()
			return total, true, c.operror("write", w.final)
		}
		w.bulk = true
		w.mu.Unlock()
		offset, seekErr := file.Seek(0, io.SeekCurrent)
		var left int64
		if isLimited {
			left = limited.N
		}
		n, err := tcp.ReadFrom(src)
		total += n
		if err != nil && seekErr == nil {
			// Where the kernel cannot send the file, more was read than written.
			file.Seek(offset+n, io.SeekStart)
			if isLimited {
				limited.N = left - n
			}
		}
		w.mu.Lock()
		cut := w.cut
		w.bulk, w.cut = false, false
		w.changed.Broadcast()
		w.mu.Unlock()
		if err == nil || !cut || !errors.Is(err, os.ErrDeadlineExceeded) {
			return total, true, err
		}
	}
}

// seal shuts the writing side and waits until nothing is half done that could not
// be taken along. After it the Conn does not change until open or supersede.
func (c *Conn) seal(ctx context.Context) error {
	w := &c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut = true
	if w.bulk {
		w.cut = true
		c.inner.SetWriteDeadline(past)
		err := waitFor(ctx, &w.changed, func() bool { return !w.bulk })
		c.inner.SetWriteDeadline(w.deadline)
		if err != nil {
			return err
		}
	}
	return nil
}

// beginAbsorbing lets writes end at once, so that a slow peer holds nobody up who
// has to come to rest: what it does not take becomes unsent, to be sent by the one
// who has the connection afterwards.
func (c *Conn) beginAbsorbing() {
	w := &c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.absorb = true
	if w.active && !w.absorbed && (w.n < len(w.p) || len(w.unsent) > 0) {
		w.unsent = slices.Concat(w.unsent, w.p[w.n:])
		w.n = len(w.p)
		w.absorbed = true
		c.inner.SetWriteDeadline(past) // wakes it; writeDone puts the deadline back
	}
}

// flush sends what is unsent, in the background.
func (c *Conn) flush() {
	if _, err := c.write(nil); err != nil {
		return // SetWriteDeadline and Write try again
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.closing && len(c.w.unsent) == 0 && c.w.final == nil && !c.w.shut { // else open comes back here, or the next generation does it
		c.w.closing = false
		c.inner.CloseWrite()
	}
}

func (c *Conn) closeWrite() error {
	w := &c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.shut && w.final == nil {
		w.changed.Wait()
	}
	if w.final != nil {
		return c.operror("close", w.final)
	}
	if len(w.unsent) > 0 {
		w.closing = true
		go c.flush()
		return nil
	}
	return c.inner.CloseWrite()
}

// shut ends both halves for a Close.
func (c *Conn) shut() error {
	c.w.mu.Lock()
	for c.w.shut && c.w.final == nil {
		c.w.changed.Wait()
	}
	err := c.w.final
	if err == nil {
		c.w.final = net.ErrClosed
		c.w.changed.Broadcast()
	}
	c.w.mu.Unlock()
	if err == nil {
		c.endRead(net.ErrClosed)
	}
	return err
}

func (c *Conn) endRead(err error) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.final == nil {
		c.r.final = err
		c.r.changed.Broadcast()
	}
}

// closeInner closes the socket. What an earlier generation had accepted for
// sending is sent before.
func (c *Conn) closeInner() error {
	c.w.mu.Lock()
	unsent := c.w.unsent
	c.w.mu.Unlock()
	if len(unsent) > 0 {
		c.inner.SetReadDeadline(past)
		c.inner.SetWriteDeadline(time.Now().Add(flushTimeout))
		go func() {
			c.writing.Lock() // a Write that was under way has returned
			defer c.writing.Unlock()
			c.inner.Write(unsent)
			c.endStream()
			c.inner.Close()
		}()
		return nil
	}
	c.endStream()
	return c.inner.Close()
}

// endStream sends the end, which would be delayed if the old process has not closed
// its descriptor yet.
func (c *Conn) endStream() {
	if c.inherited && c.registry.predecessorLives() {
		sys.ShutdownUnlessReset(c.raw)
	}
}
