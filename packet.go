package mitosis

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

var (
	_ net.PacketConn = (*PacketConn)(nil)
	_ syscall.Conn   = (*PacketConn)(nil)
	_ socket         = (*PacketConn)(nil)
)

// packetConn is what *net.UDPConn, *net.UnixConn and *net.IPConn have in common.
type packetConn interface {
	net.PacketConn
	syscall.Conn
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// PacketConn is a packet socket that the registry keeps. It is what
// [Registry.ListenPacket] returns.
//
// Reads wait until [Registry.Ready] has returned, and during a cut; datagrams that
// arrive meanwhile stay in the socket's buffer. When the next generation has taken
// over they return an error that matches both net.ErrClosed and ErrSuperseded.
// Writes are possible at all times, also in the old generation until it closes
// the socket, so that what it still works on can be answered. All methods may be
// called concurrently.
type PacketConn struct {
	*registration
	inner packetConn
	gate  *gate
}

func newPacketConn(r *registration, inner packetConn) *PacketConn {
	return &PacketConn{registration: r, inner: inner, gate: newGate(inner.SetReadDeadline)}
}

// ReadFrom reads a datagram, as net.PacketConn says.
func (p *PacketConn) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	err = p.gate.do(func() (err error) {
		n, from, err = p.inner.ReadFrom(b)
		return err
	})
	return n, from, p.operror("read", err)
}

// WriteTo sends a datagram, as net.PacketConn says.
func (p *PacketConn) WriteTo(b []byte, to net.Addr) (int, error) { return p.inner.WriteTo(b, to) }

// ReadFromUDPAddrPort reads a datagram without an allocation, as
// (*net.UDPConn).ReadFromUDPAddrPort does. On a socket that is not UDP the error
// matches errors.ErrUnsupported.
func (p *PacketConn) ReadFromUDPAddrPort(b []byte) (n int, from netip.AddrPort, err error) {
	udp, err := p.udp()
	if err != nil {
		return 0, from, err
	}
	err = p.gate.do(func() (err error) {
		n, from, err = udp.ReadFromUDPAddrPort(b)
		return err
	})
	return n, from, p.operror("read", err)
}

// WriteToUDPAddrPort sends a datagram, as (*net.UDPConn).WriteToUDPAddrPort does.
func (p *PacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	udp, err := p.udp()
	if err != nil {
		return 0, err
	}
	return udp.WriteToUDPAddrPort(b, to)
}

// ReadMsgUDP reads a datagram with its control data, as (*net.UDPConn).ReadMsgUDP does.
func (p *PacketConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, from *net.UDPAddr, err error) {
	udp, err := p.udp()
	if err != nil {
		return 0, 0, 0, nil, err
	}
	err = p.gate.do(func() (err error) {
		n, oobn, flags, from, err = udp.ReadMsgUDP(b, oob)
		return err
	})
	return n, oobn, flags, from, p.operror("read", err)
}

// WriteMsgUDP sends a datagram with control data, as (*net.UDPConn).WriteMsgUDP does.
func (p *PacketConn) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	udp, err := p.udp()
	if err != nil {
		return 0, 0, err
	}
	return udp.WriteMsgUDP(b, oob, to)
}

func (p *PacketConn) udp() (*net.UDPConn, error) {
	if udp, ok := p.inner.(*net.UDPConn); ok {
		return udp, nil
	}
	return nil, fmt.Errorf("mitosis: socket %q is %s, not UDP: %w", p.name, p.LocalAddr().Network(), errUnsupported)
}

// Close closes the socket and takes its name out of the registry; see [Listener.Close].
func (p *PacketConn) Close() error {
	return p.operror("close", p.registry.close(p, func() error {
		p.gate.end(net.ErrClosed)
		return p.inner.Close()
	}))
}

// LocalAddr returns the address that the socket is bound to.
func (p *PacketConn) LocalAddr() net.Addr { return p.inner.LocalAddr() }

// Name returns the name in the registry.
func (p *PacketConn) Name() string { return p.name }

// SetDeadline bounds reads and writes, as net.PacketConn says.
func (p *PacketConn) SetDeadline(t time.Time) error {
	if err := p.gate.setUserDeadline(t); err != nil {
		return err
	}
	return p.inner.SetWriteDeadline(t)
}

// SetReadDeadline bounds reads. While reads wait for Ready or the end of a cut, so
// does the deadline.
func (p *PacketConn) SetReadDeadline(t time.Time) error { return p.gate.setUserDeadline(t) }

// SetWriteDeadline bounds writes.
func (p *PacketConn) SetWriteDeadline(t time.Time) error { return p.inner.SetWriteDeadline(t) }

// SetReadBuffer sets the size of the socket's receive buffer in bytes.
func (p *PacketConn) SetReadBuffer(bytes int) error { return p.inner.SetReadBuffer(bytes) }

// SetWriteBuffer sets the size of the socket's send buffer in bytes.
func (p *PacketConn) SetWriteBuffer(bytes int) error { return p.inner.SetWriteBuffer(bytes) }

// SyscallConn gives access to the socket, for its options. Reading through it is
// not held back during a cut.
func (p *PacketConn) SyscallConn() (syscall.RawConn, error) { return p.inner.SyscallConn() }

func (p *PacketConn) operror(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(*net.OpError); ok {
		return err
	}
	return &net.OpError{Op: op, Net: p.LocalAddr().Network(), Source: p.LocalAddr(), Err: err}
}

func (p *PacketConn) describe() wire.Socket {
	return wire.Socket{Name: p.name, Type: typePacket, Network: p.network, Address: p.address, Path: p.path}
}

func (p *PacketConn) duplicate() (int, error)               { return sys.Duplicate(p.inner) }
func (p *PacketConn) freeze()                               { p.gate.close() }
func (p *PacketConn) awaitFrozen(ctx context.Context) error { return p.gate.drained(ctx) }
func (p *PacketConn) open()                                 { p.gate.open() }

// supersede ends reads; the socket stays open for the answers that are still due.
func (p *PacketConn) supersede() {
	p.gate.end(handedOver)
	p.inner.SetReadDeadline(past)
}

func (p *PacketConn) discard() error {
	p.gate.end(net.ErrClosed)
	return p.inner.Close()
}

// openPacketConn opens a new packet socket.
func openPacketConn(config *net.ListenConfig, network, address string) (packetConn, error) {
	pc, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return transferablePacketConn(pc)
}

// rebuildPacketConn makes a packet conn of an inherited descriptor, which it takes.
func rebuildPacketConn(fd int) (packetConn, error) {
	f := os.NewFile(uintptr(fd), "packet conn")
	defer f.Close() // net.FilePacketConn works on a duplicate
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return transferablePacketConn(pc)
}

// transferablePacketConn returns the packet conn with a descriptor that pc is.
func transferablePacketConn(pc net.PacketConn) (packetConn, error) {
	switch pc := pc.(type) {
	case *net.UDPConn:
		if pc != nil {
			return pc, nil
		}
	case *net.UnixConn:
		if pc != nil {
			return pc, nil
		}
	case *net.IPConn:
		if pc != nil {
			return pc, nil
		}
	case *PacketConn:
		return nil, fmt.Errorf("%w: it is socket %q of a registry already", ErrNameTaken, pc.name)
	}
	return nil, fmt.Errorf("%T %w", pc, ErrNotTransferable)
}
