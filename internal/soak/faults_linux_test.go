package soak

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis"
)

// The faults that a split can be ordered to have.
const (
	missing       = "the binary is missing"
	notExecutable = "the binary is not executable"
	exits         = "the new process exits"
	hangs         = "the new process hangs"
	killed        = "the new process is killed"
	loadPanics    = "Load panics"
	saveFails     = "Save fails"
	savePanics    = "Save panics"
	givenUp       = "the split is given up"
)

// These are signals, after which splits have to succeed.
const (
	oneSignal    = "a signal"
	twoSignals   = "two signals"
	signalDuring = "a signal during a split"
)

// failures say what is in the error of a split with a fault.
var failures = map[string]string{
	missing:       "no such file or directory",
	notExecutable: "permission denied",
	exits:         "exit status 3",
	hangs:         "warm-up: time limit exceeded",
	killed:        "signal: killed",
	loadPanics:    `state "bulk": load: panic: fragile state`,
	saveFails:     `state "bulk": save: fragile state`,
	savePanics:    `state "bulk": save: panic: fragile state`,
	givenUp:       "context deadline exceeded",
}

// mayComeTooLate are faults that happen at a random moment.
var mayComeTooLate = map[string]bool{killed: true, givenUp: true}

// spoil is the Options.Command of the service.
func (s *service) spoil(c *mitosis.Command) error {
	next := s.present()
	switch next.Fault {
	case missing:
		c.Path += ".missing"
	case notExecutable:
		c.Path = s.plain()
	}
	text, err := json.Marshal(next)
	c.Env = append(c.Env, orderVariable+"="+string(text))
	return err
}

// assassin kills a new process at some moment, but not after it may have taken over:
// what it has read by then would be lost with it, as with any process.
type assassin struct {
	mu      sync.Mutex
	tooLate bool
}

func (a *assassin) engage(pid int, after time.Duration) {
	a.mu.Lock()
	a.tooLate = false
	a.mu.Unlock()
	time.AfterFunc(after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.tooLate {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

func (a *assassin) dismiss() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tooLate = true
}

// watcher returns a log handler that sees how far a split has come.
func (s *service) watcher() slog.Handler {
	return &watcher{slog.NewTextHandler(os.Stdout, nil), s}
}

type watcher struct {
	slog.Handler
	s *service
}

func (w *watcher) Enabled(context.Context, slog.Level) bool { return true }

func (w *watcher) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &watcher{w.Handler.WithAttrs(attrs), w.s}
}

func (w *watcher) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		switch next := w.s.present(); {
		case r.Message == "mitosis: new process started" && a.Key == "child" && next.Fault == killed:
			w.s.assassin.engage(int(a.Value.Int64()), next.After)
		case r.Message == "mitosis: split" && a.Key == "phase" && a.Value.String() == "commit":
			w.s.assassin.dismiss()
		}
		return true
	})
	if r.Level < slog.LevelInfo {
		return nil
	}
	return w.Handler.Handle(ctx, r)
}
