package mitosis

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// What a caller would branch on, for [errors.Is]. The text of an error names the
// socket or state, and the child's pid and exit status where there is one.
var (
	// ErrNotReady means that [Registry.Ready] has to come first.
	ErrNotReady = errors.New("not ready yet: call Ready first")
	// ErrTooLate means that a call has to come before [Registry.Ready].
	ErrTooLate = errors.New("too late: call it before Ready")
	// ErrSplitting means that another Split is under way.
	ErrSplitting = errors.New("already splitting")
	// ErrSuperseded means that the next generation has taken over.
	ErrSuperseded = errors.New("superseded by the next generation")
	// ErrStopped is what [Registry.Wait] returns after a stop signal.
	ErrStopped = errors.New("told to stop")
	// ErrClosed means that [Registry.Close] was called.
	ErrClosed = errors.New("registry is closed")
	// ErrChildExited means that the new process ended before it took over; see [ExitError].
	ErrChildExited = errors.New("new process ended before it took over")
	// ErrTimeout means that a phase of the split took too long; see [TimeoutError].
	ErrTimeout = errors.New("time limit exceeded")
	// ErrRefused means that the new process reported a failure of its own; see [RefusedError].
	ErrRefused = errors.New("refused by the new process")
	// ErrProtocol means that the two processes do not understand each other.
	ErrProtocol = errors.New("protocol error on the control link")
	// ErrVersion means that they share no version of the protocol.
	ErrVersion = errors.New("no common protocol version")
	// ErrEnvironment means that what a new process found in its environment cannot be trusted.
	ErrEnvironment = errors.New("corrupt environment")
	// ErrTruncated means that a state ended before it was whole.
	ErrTruncated = errors.New("truncated")
	// ErrNotFound means that there is nothing of that name.
	ErrNotFound = errors.New("not found")
	// ErrNameTaken means that the name is in use already.
	ErrNameTaken = errors.New("name is already in use")
	// ErrInvalidName means that a name is empty, longer than 255 bytes, not UTF-8
	// or holds control characters.
	ErrInvalidName = errors.New("invalid name")
	// ErrNotTransferable means that there is no descriptor to hand over.
	ErrNotTransferable = errors.New("has no descriptor that could be handed over")
	// ErrOldDied means that the old process died before it had handed over.
	ErrOldDied = errors.New("the old process died")
)

// ExitError says how a new process ended that never took over. It matches
// [ErrChildExited].
type ExitError struct {
	Pid    int
	Status string // as os.ProcessState says it: "exit status 3", "signal: killed"
	Phase  string // of the split
	Cause  error  // why the old process killed it, if it did
}

func (e *ExitError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%v: %v (pid %d, %s, during %s)", e.Cause, ErrChildExited, e.Pid, e.Status, e.Phase)
	}
	return fmt.Sprintf("%v: pid %d, %s, during %s", ErrChildExited, e.Pid, e.Status, e.Phase)
}

// Unwrap returns ErrChildExited and the cause.
func (e *ExitError) Unwrap() []error {
	if e.Cause != nil {
		return []error{ErrChildExited, e.Cause}
	}
	return []error{ErrChildExited}
}

// TimeoutError says which phase of a split took too long. It matches [ErrTimeout].
type TimeoutError struct {
	Phase string
	Limit time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s: %v (%v)", e.Phase, ErrTimeout, e.Limit)
}

// Unwrap returns ErrTimeout.
func (e *TimeoutError) Unwrap() error { return ErrTimeout }

// RefusedError holds what the new process said when its Init or Ready failed. It
// matches [ErrRefused], and [ErrVersion] if that was the reason.
type RefusedError struct {
	Pid     int
	Reason  string
	Version bool // it shares no version of the protocol with the old one
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%v (pid %d): %s", ErrRefused, e.Pid, e.Reason)
}

// Unwrap returns ErrRefused, and ErrVersion if that was the reason.
func (e *RefusedError) Unwrap() []error {
	if e.Version {
		return []error{ErrRefused, ErrVersion}
	}
	return []error{ErrRefused}
}

// handedOver is the error of a call on a socket that the next generation owns: it
// matches both net.ErrClosed, so that loops end, and ErrSuperseded, so that
// reconnect code can tell.
var handedOver error = handedOverError{}

type handedOverError struct{}

func (handedOverError) Error() string   { return ErrSuperseded.Error() }
func (handedOverError) Unwrap() []error { return []error{net.ErrClosed, ErrSuperseded} }
