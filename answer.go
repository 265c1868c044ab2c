package mitosis

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// received is what came over the link.
type received struct {
	wire.Frame
	err error // the link's end; it is the last
}

// pump receives frames until the link ends.
func pump(link *wire.Link, quit <-chan struct{}) <-chan received {
	frames := make(chan received)
	go func() {
		defer close(frames)
		for {
			frame, err := link.Receive()
			select {
			case frames <- received{frame, err}:
			case <-quit:
				wire.CloseDescriptors(frame.Descriptors)
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return frames
}

// errChildGone stands for what the child's exit status will tell.
var errChildGone = errors.New("child is gone")

// boundSends makes sends fail when ctx ends, until stop is called.
func (s *split) boundSends(ctx context.Context) (stop func()) {
	end := context.AfterFunc(ctx, func() { s.link.SetWriteDeadline(past) })
	return func() {
		if end() {
			s.link.SetWriteDeadline(time.Time{})
		}
	}
}

// send sends a frame. If the child is gone, its last words say more than the error.
func (s *split) send(ctx context.Context, frame wire.Frame) error {
	err := s.link.Send(frame)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return s.lastWords(err, wire.Refuse, nil)
	case ctx.Err() != nil:
		return s.ended(ctx)
	}
	return err
}

// await waits for one kind of frame, and decodes it into v unless that is nil.
func (s *split) await(ctx context.Context, kind wire.Kind, v any) error {
	select {
	case r, ok := <-s.frames:
		if !ok {
			return errChildGone
		}
		return s.expect(r, kind, v)
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, errChildGone) {
			return cause
		}
		return s.lastWords(errChildGone, kind, v) // it may have answered before it ended
	}
}

// expect takes a frame as the answer, or as the reason why there is none.
func (s *split) expect(r received, kind wire.Kind, v any) error {
	defer wire.CloseDescriptors(r.Descriptors)
	switch {
	case isLost(r.err):
		return errChildGone
	case r.err != nil:
		return fmt.Errorf("%w: from the new process: %w", ErrProtocol, r.err)
	case r.Kind == wire.Refuse:
		var refusal wire.Refusal
		if err := r.Decode(&refusal, 0); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return &RefusedError{Pid: s.child.Pid(), Reason: refusal.Reason, Version: refusal.Version}
	case r.Kind != kind:
		return fmt.Errorf("%w: the new process sent %v where %v was expected", ErrProtocol, r.Kind, kind)
	case v == nil:
		return nil
	}
	if err := r.Decode(v, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// ended says why ctx did. A child that is gone may have left a reason on the link.
func (s *split) ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errChildGone) {
		return s.lastWords(cause, wire.Refuse, nil)
	}
	return cause
}

// lastWords reads what a child wrote before it went away: the frame that is
// awaited, or a reason why there is none. Without either it returns err.
func (s *split) lastWords(err error, kind wire.Kind, v any) error {
	enough := time.After(time.Second)
	for {
		select {
		case r, ok := <-s.frames:
			switch {
			case !ok || r.err != nil:
				return errors.Join(errChildGone, err)
			case r.Kind == kind || r.Kind == wire.Refuse:
				return s.expect(r, kind, v)
			}
			wire.CloseDescriptors(r.Descriptors)
		case <-enough: // it closed a pipe and lives on
			return err
		}
	}
}
