package httpx

import (
	"io"
	"net"
	"time"
)

// tcpConn has all that a *net.TCPConn has, so that http.Server can use sendfile.
type tcpConn struct {
	*net.TCPConn
	conn
}

// Read reads, as net.Conn does.
func (c *tcpConn) Read(p []byte) (int, error) { return c.read(p) }

// Close closes, as net.Conn does.
func (c *tcpConn) Close() error { return c.close() }

// SetReadDeadline bounds Read, as net.Conn does.
func (c *tcpConn) SetReadDeadline(t time.Time) error { return c.setReadDeadline(t) }

// SetDeadline bounds Read and Write, as net.Conn does.
func (c *tcpConn) SetDeadline(t time.Time) error {
	if err := c.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.setReadDeadline(t)
}

// WriteTo copies what is read to w, as (*net.TCPConn).WriteTo does.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.writeUnread(w)
	if err != nil {
		return n, err
	}
	more, err := c.TCPConn.WriteTo(w)
	return n + more, err
}

// unixConn has all that a *net.UnixConn has.
type unixConn struct {
	*net.UnixConn
	conn
}

// Read reads, as net.Conn does.
func (c *unixConn) Read(p []byte) (int, error) { return c.read(p) }

// Close closes, as net.Conn does.
func (c *unixConn) Close() error { return c.close() }

// SetReadDeadline bounds Read, as net.Conn does.
func (c *unixConn) SetReadDeadline(t time.Time) error { return c.setReadDeadline(t) }

// SetDeadline bounds Read and Write, as net.Conn does.
func (c *unixConn) SetDeadline(t time.Time) error {
	if err := c.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.setReadDeadline(t)
}

// writeUnread writes what was received before to w.
func (c *conn) writeUnread(w io.Writer) (int64, error) {
	c.mu.Lock()
	unread := c.unread
	c.unread = nil
	c.mu.Unlock()
	if len(unread) == 0 {
		return 0, nil
	}
	n, err := w.Write(unread)
	return int64(n), err
}
