//go:build !unix

package mitosis

// There are no cuts here, so the gates are never shut.

func (c *Conn) rawRead() error {
	r := &c.r
	r.mu.Lock()
	r.settle()
	if r.final != nil {
		r.stopped = true
		r.mu.Unlock()
		return nil
	}
	if len(r.pending) > 0 {
		n := copy(r.p, r.pending)
		r.pending = r.pending[n:]
		r.take(n)
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	n, err := c.inner.Read(r.p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > 0 {
		r.take(n)
		return nil
	}
	r.err = err
	return nil
}

func (c *Conn) readOnce(uintptr) bool { return true }

func (c *Conn) rawWrite() error {
	w := &c.w
	w.mu.Lock()
	final := w.final
	w.mu.Unlock()
	if final != nil {
		w.stopped = true
		return nil
	}
	w.n, w.err = c.inner.Write(w.p)
	return nil
}

func (c *Conn) writeOnce(uintptr) bool { return true }
