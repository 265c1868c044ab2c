package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// Link is one end of a control link. Send may be called concurrently; Receive by
// one goroutine at a time.
type Link struct {
	conn *net.UnixConn

	sending sync.Mutex
	out     []byte

	in      []byte // received bytes that are not yet decoded
	inBuf   []byte
	oob     []byte
	arrived []int // received descriptors that no frame has claimed yet

	close sync.Once
}

// NewLink returns a link over conn, which it owns from now on.
func NewLink(conn *net.UnixConn) *Link {
	return &Link{conn: conn}
}

// SetReadDeadline bounds Receive, as net.Conn does.
func (l *Link) SetReadDeadline(t time.Time) error { return l.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds Send, as net.Conn does.
func (l *Link) SetWriteDeadline(t time.Time) error { return l.conn.SetWriteDeadline(t) }

// SetWriteBuffer sets how many bytes Send may be ahead of the other end, as
// (*net.UnixConn).SetWriteBuffer does.
func (l *Link) SetWriteBuffer(bytes int) error { return l.conn.SetWriteBuffer(bytes) }

// Close closes this end of the link. A blocked Receive or Send returns.
func (l *Link) Close() error {
	err := net.ErrClosed
	l.close.Do(func() { err = l.conn.Close() })
	return err
}

// Send writes frames, with no other sender's between them. The descriptors are
// borrowed for the call.
func (l *Link) Send(frames ...Frame) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	for _, f := range frames {
		if err := f.check(); err != nil {
			return err
		}
		l.out = append(f.appendHeader(l.out[:0]), f.Payload...)
		n, err := l.writeFirst(l.out, f.Descriptors)
		if err == nil && n < len(l.out) {
			_, err = l.conn.Write(l.out[n:])
		}
		if cap(l.out) > 64<<10 {
			l.out = nil
		}
		if err != nil {
			return fmt.Errorf("send %v: %w", f.Kind, err)
		}
	}
	return nil
}

// Detach ends this end's use of the link without closing it: it returns a
// descriptor of the link, and the bytes and descriptors that were received and not
// yet returned by Receive. All are the caller's. Resume goes on from there. Nobody
// may be in Receive.
func (l *Link) Detach() (fd int, buffered []byte, arrived []int, err error) {
	fd, err = sys.Duplicate(l.conn)
	if err != nil {
		return -1, nil, nil, err
	}
	buffered, arrived = l.in, l.arrived
	l.in, l.arrived = nil, nil
	return fd, buffered, arrived, l.Close()
}

// Resume returns a link that goes on where Detach, in another process, stopped.
// It takes the descriptors.
func Resume(fd int, buffered []byte, arrived []int) (*Link, error) {
	conn, err := sys.UnixConn(fd)
	if err != nil {
		CloseDescriptors(arrived)
		return nil, err
	}
	return &Link{conn: conn, in: buffered, arrived: arrived}, nil
}

// Receive reads the next frame that this version knows. At the orderly end of the
// link it returns io.EOF, in the middle of a frame io.ErrUnexpectedEOF. The
// descriptors of the frame are the caller's, and close-on-exec. After a deadline
// that has passed, the next call goes on with what was received until then.
func (l *Link) Receive() (Frame, error) {
	for {
		f, err := l.receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Frame{}, err
		}
		if err != nil {
			l.discard()
			return Frame{}, err
		}
		if f.Kind.known() {
			return f, nil
		}
		CloseDescriptors(f.Descriptors)
	}
}

func (l *Link) receive() (Frame, error) {
	if err := l.fill(headerSize); err != nil {
		return Frame{}, err
	}
	h, err := parseHeader(l.in)
	if err != nil {
		return Frame{}, err
	}
	if err := l.fill(headerSize + h.length); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	f := Frame{Kind: h.kind, Payload: append([]byte(nil), l.in[headerSize:headerSize+h.length]...)}
	l.in = l.in[headerSize+h.length:]
	// They ride on the first byte of the frame, so they came no later than it.
	if len(l.arrived) < h.descriptors {
		return Frame{}, fmt.Errorf("%w: %v lost %d of %d descriptors", ErrMalformed, h.kind, h.descriptors-len(l.arrived), h.descriptors)
	}
	if h.descriptors > 0 {
		f.Descriptors = append(f.Descriptors, l.arrived[:h.descriptors]...)
		l.arrived = l.arrived[h.descriptors:]
	}
	if len(l.in) == 0 && len(l.arrived) > 0 { // or the next frame would get them in place of its own
		CloseDescriptors(f.Descriptors)
		return Frame{}, fmt.Errorf("%w: %v came with %d descriptors too many", ErrMalformed, h.kind, len(l.arrived))
	}
	return f, nil
}

// fill reads until at least n bytes are buffered.
func (l *Link) fill(n int) error {
	if len(l.in) >= n {
		return nil
	}
	if l.inBuf == nil {
		l.inBuf = make([]byte, 64<<10)
	}
	if len(l.in) == 0 {
		l.in = l.inBuf[:0]
	}
	for len(l.in) < n {
		if free := cap(l.in) - len(l.in); free == 0 || cap(l.in) < n {
			grown := make([]byte, len(l.in), max(2*len(l.in), n, len(l.inBuf)))
			copy(grown, l.in)
			l.in = grown
		}
		got, err := l.readSome(l.in[len(l.in):cap(l.in)])
		if err != nil {
			if errors.Is(err, io.EOF) && len(l.in) > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		l.in = l.in[:len(l.in)+got]
	}
	return nil
}

// discard closes descriptors that arrived for a frame that never did.
func (l *Link) discard() {
	CloseDescriptors(l.arrived)
	l.arrived = nil
}
