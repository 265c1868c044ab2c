package mitosis

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// Drain closes the listening socket of a service that ends without a successor, and
// drops no connection: first the system is made to refuse new ones, then handshakes
// that are under way have a second to end, then the queue is emptied. It returns when
// Accept has returned all that was in it, or when ctx ends. From then on Accept
// returns those that older generations still forward, until Close. Somebody has to
// be in Accept.
//
// Refusing before the end takes Linux, and a socket that Listen has opened: one that
// came to AddListener may have other owners, such as the service manager that made
// it. Other sockets are closed in a moment in which their queue is empty; a
// connection that comes within the microseconds of that moment is reset, unless
// another process has the socket.
//
// While a split is under way Drain waits for its outcome. The error matches
// ErrSuperseded if the next generation has the socket: then nothing is closed here,
// and Drain returns when what older processes have forwarded so far has gone on.
// Before Ready it matches ErrNotReady: the socket may be the old process's.
func (l *Listener) Drain(ctx context.Context) error {
	if err := l.drain(ctx); err != nil {
		return l.operror("drain", err)
	}
	return nil
}

func (l *Listener) drain(ctx context.Context) error {
	again, err := l.beginDrain()
	if errors.Is(err, ErrSuperseded) {
		l.registry.awaitHearings(lastSends)
	}
	if err != nil || again {
		return err
	}
	refused := l.opened && sys.RefuseConnections(l.inner) == nil
	closeErr := l.emptyQueue(ctx, l.inner, refused)
	l.unpark()
	for l.pending() && ctx.Err() == nil {
		select {
		case <-l.accepts:
		case <-ctx.Done():
		}
	}
	return closeErr
}

// beginDrain takes the listener out of what later generations get, and says whether
// it was out before. Nothing may happen to the socket while the old process has it.
func (l *Listener) beginDrain() (again bool, err error) {
	m := l.registry
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.awaitNoSplit(); err != nil {
		return false, err
	}
	if m.phase != serving {
		return false, ErrNotReady
	}
	l.mu.Lock()
	again, l.drained = l.drained, true
	l.mu.Unlock()
	if again || l.path == nil {
		return again, nil
	}
	return false, unlink(l.path) // so that nobody can come while the queue is emptied
}

// emptyQueue closes a listening socket, of which the system refuses new connections
// if possible, and gives what is in its queue to Accept.
func (l *Listener) emptyQueue(ctx context.Context, inner streamListener, refused bool) error {
	if refused {
		awaitHandshakes(ctx, inner.Addr())
	}
	for empty := false; !empty; {
		var accepted []net.Conn
		var err error
		accepted, empty, err = sys.CloseEmpty(inner)
		for _, c := range accepted {
			l.queue(&forwardedConn{conn: c.(streamConn), fresh: true})
		}
		if err != nil && !empty {
			l.registry.log.Warn("mitosis: connections in the queue of a listener may be lost", "name", l.name, "error", err)
			break
		}
	}
	return inner.Close()
}

// succeed closes the inherited socket that had this listener's name at another
// address, and lets Accept return what is in its queue. It takes the descriptor.
func (l *Listener) succeed(old *inheritedSocket) error {
	inner, err := rebuildListener(old.descriptor)
	if err != nil {
		return err
	}
	if inner.Addr().Network() != l.inner.Addr().Network() {
		return inner.Close() // Accept returns connections of one kind
	}
	refused := sys.RefuseConnections(inner) == nil
	l.registry.handing.Go(func() { l.emptyQueue(context.Background(), inner, refused) })
	return nil
}

// handshakeLimit is how long Drain waits for handshakes: after the initial
// retransmission timeout of TCP (RFC 6298, section 2) a peer that has not answered
// is unlikely to be there.
const handshakeLimit = time.Second

// awaitHandshakes waits until no peer is left that has been answered by the system
// and has not finished its handshake: to it the connection may exist already.
func awaitHandshakes(ctx context.Context, address net.Addr) {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond) // the system tells nobody
	defer look.Stop()
	for sys.HandshakesUnderWay(address) {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// errDrained means that only forwarded connections can still be accepted.
var errDrained = errors.New("the listening socket is closed")

func (l *Listener) isDrained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drained
}

// awaitForwarded waits for a forwarded connection or for the end.
func (l *Listener) awaitForwarded() (*forwardedConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if len(l.forwarded) > 0 {
			f := l.forwarded[0]
			l.forwarded = l.forwarded[1:]
			return f, nil
		}
		if err := l.gate.ended(); err != nil {
			return nil, err
		}
		l.arrival.Wait()
	}
}
