//go:build unix

package mitosis

import (
	"io"
	"os"
	"slices"
	"syscall"
)

func (c *Conn) rawRead() error  { return c.raw.Read(c.r.once) }
func (c *Conn) rawWrite() error { return c.raw.Write(c.w.once) }

// readOnce is called by the poller when there may be something to read, and says
// whether the call is done. It is only here that bytes leave the socket.
func (c *Conn) readOnce(fd uintptr) bool {
	r := &c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle()
	if r.stop() {
		r.stopped = true
		return true
	}
	if len(r.pending) > 0 {
		n := copy(r.p, r.pending)
		r.pending = r.pending[n:]
		r.take(n)
		return true
	}
	for {
		n, err := syscall.Read(int(fd), r.p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			r.err = os.NewSyscallError("read", err)
		case n == 0:
			r.err = io.EOF
		default:
			r.take(n)
		}
		return true
	}
}

// writeOnce is called by the poller when something may be written, and says
// whether the call is done. It is only here that bytes enter the socket.
func (c *Conn) writeOnce(fd uintptr) bool {
	w := &c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop() {
		w.stopped = true
		return true
	}
	if w.absorbed {
		return true
	}
	for len(w.unsent) > 0 {
		n, err := writeSome(fd, w.unsent)
		w.unsent = w.unsent[n:]
		if err == syscall.EAGAIN {
			return w.absorbRest()
		}
		if err != nil {
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
	for w.n < len(w.p) {
		n, err := writeSome(fd, w.p[w.n:])
		w.n += n
		if err == syscall.EAGAIN {
			return w.absorbRest()
		}
		if err != nil {
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// absorbRest takes the rest of the write along, if a cut has begun, and says
// whether it did.
func (w *writeHalf) absorbRest() bool {
	if w.absorb {
		w.unsent = slices.Concat(w.unsent, w.p[w.n:])
		w.n = len(w.p)
	}
	return w.absorb
}

// writeSome writes to the socket once. Systems limit one write to 1 or 2 GiB.
func writeSome(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p[:min(len(p), 1<<30)])
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
