package mitosis

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// past is a deadline that interrupts whatever is waiting.
var past = time.Unix(1, 0)

// gate lets the callers of a blocking operation pass, holds them while it is
// shut, and turns them away when it is over. Shutting it interrupts those who are
// inside with a deadline in the past; do makes them come back and wait.
type gate struct {
	setDeadline func(time.Time) error // of the operation

	mu       sync.Mutex
	changed  sync.Cond
	shut     bool
	final    error // it is over, and why
	inside   int
	epoch    uint64 // counts interruptions
	poked    bool   // interrupted without being shut
	deadline time.Time
}

// newGate returns a gate that is shut.
func newGate(setDeadline func(time.Time) error) *gate {
	g := &gate{setDeadline: setDeadline, shut: true}
	g.changed.L = &g.mu
	return g
}

// do runs op inside the gate, again whenever it was interrupted by the gate's own
// deadline and not by the caller's.
func (g *gate) do(op func() error) error {
	for {
		epoch, err := g.enter()
		if err != nil {
			return err
		}
		err = op()
		again, final := g.leave(epoch)
		switch {
		case err == nil:
			return nil
		case again && errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case final != nil:
			return final
		}
		return err
	}
}

func (g *gate) enter() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut && g.final == nil {
		g.changed.Wait()
	}
	if g.final != nil {
		return 0, g.final
	}
	if g.poked {
		g.poked = false
		g.setDeadline(g.deadline)
	}
	g.inside++
	return g.epoch, nil
}

func (g *gate) leave(epoch uint64) (interrupted bool, final error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 {
		g.changed.Broadcast()
	}
	return g.epoch != epoch, g.final
}

// close shuts the gate and interrupts those inside; drained waits for them.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut || g.final != nil {
		return
	}
	g.shut = true
	g.epoch++
	g.setDeadline(past)
}

// drained waits until nobody is inside.
func (g *gate) drained(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.changed.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.inside > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.changed.Wait()
	}
	return nil
}

// open lets callers in, with the deadline that they had set.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut || g.final != nil {
		return
	}
	g.shut, g.poked = false, false
	g.setDeadline(g.deadline)
	g.changed.Broadcast()
}

// poke interrupts those inside, so that they look around and go in again.
func (g *gate) poke() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut || g.final != nil {
		return
	}
	g.epoch++
	g.poked = true
	g.setDeadline(past)
}

// end turns everybody away with err from now on.
func (g *gate) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.final != nil {
		return
	}
	g.final = err
	g.changed.Broadcast()
}

// setUserDeadline is the deadline that the application wants. While the gate is
// shut it is kept until the gate opens.
func (g *gate) setUserDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	if (g.shut || g.poked) && g.final == nil {
		return nil // open or enter will set it
	}
	return g.setDeadline(t)
}

// endedWith says whether the gate is over because of err.
func (g *gate) endedWith(err error) bool { return errors.Is(g.ended(), err) }

// ended returns why the gate is over, or nil.
func (g *gate) ended() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.final
}
