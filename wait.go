package mitosis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// signals are the operating system's requests. They are caught from Init on, and
// wait here until somebody calls Wait.
type signals struct {
	split, stopping chan os.Signal
}

func catchSignals(split, stop []os.Signal) *signals {
	// One place is enough: two requests that nobody has looked at are one.
	s := &signals{split: make(chan os.Signal, 1), stopping: make(chan os.Signal, 1)}
	if len(split) > 0 {
		signal.Notify(s.split, split...)
	}
	if len(stop) > 0 {
		signal.Notify(s.stopping, stop...)
	}
	return s
}

func (s *signals) stop() {
	signal.Stop(s.split)
	signal.Stop(s.stopping)
}

// request is a signal that reached the old process when the new one had taken over.
type request struct{ stop bool }

// Wait serves the signals of this generation until its part is over: a split
// signal splits, with this process's own arguments, and a failed split is logged
// and changes nothing. It always returns an error, which matches ErrSuperseded
// when the next generation has taken over (by a signal or by Split), ErrStopped
// after a stop signal, ErrClosed after Close, or what ended ctx. The caller then
// drains and returns from main.
//
// A signal that came before Wait is served first. A stop signal during a split
// gives the split up; if it comes too late for that, it is passed on to the new
// generation. A split signal during a split causes another split afterwards, of
// the new generation if there is one. After Wait has returned, stop signals have
// their default action again, and split signals are passed on to the next
// generation.
func (m *Registry) Wait(ctx context.Context) error {
	err := m.wait(ctx)
	signal.Stop(m.signals.stopping)
	if errors.Is(err, ErrSuperseded) {
		select {
		case <-m.signals.stopping: // it came before its default action was back
			m.passOn(request{stop: true})
		default:
		}
	}
	return fmt.Errorf("mitosis: wait: %w", err)
}

func (m *Registry) wait(ctx context.Context) error {
	m.mu.Lock()
	ready := m.phase != warming && m.phase != loading && m.phase != pledged
	m.mu.Unlock()
	if !ready {
		return ErrNotReady
	}
	for {
		select {
		case <-m.done:
			return m.ending()
		case <-ctx.Done():
			return context.Cause(ctx)
		case r := <-m.requests:
			if r.stop {
				return m.stop(fmt.Errorf("%w: signal passed on by the old process", ErrStopped))
			}
		case sig := <-m.signals.stopping:
			return m.stop(fmt.Errorf("%w: %v", ErrStopped, sig))
		case sig := <-m.signals.split:
			m.log.Info("mitosis: split requested", "signal", sig.String())
		}
		if err := m.splitOnSignal(ctx); err != nil {
			return err
		}
	}
}

// stop obeys a stop signal. A split that the application has begun is given up; if
// it is too late for that, the next generation has to stop.
func (m *Registry) stop(stopped error) error {
	m.giveUp(stopped)
	if err := m.awaitOtherSplit(); errors.Is(err, ErrSuperseded) {
		m.passOn(request{stop: true})
		return ErrSuperseded
	}
	return stopped
}

// giveUp cancels the split that is under way, whoever has begun it.
func (m *Registry) giveUp(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel(cause)
	}
}

// ending says why done is closed.
func (m *Registry) ending() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == closed && m.successor == nil {
		return ErrClosed
	}
	return ErrSuperseded
}

// splitOnSignal splits, and obeys a stop signal meanwhile. It returns nil if the
// split failed and this generation goes on.
func (m *Registry) splitOnSignal(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	result := make(chan error, 1)
	go func() {
		err := m.Split(ctx)
		if errors.Is(err, ErrSplitting) { // the application's own split comes first
			if other := m.awaitOtherSplit(); other != nil {
				err = other
			}
		}
		result <- err
	}()
	var stopped error
	again := false
	for {
		select {
		case sig := <-m.signals.stopping:
			m.log.Info("mitosis: stop requested during a split", "signal", sig.String())
			stopped = fmt.Errorf("%w: %v", ErrStopped, sig)
			cancel(stopped)
			m.giveUp(stopped)
		case r := <-m.requests:
			if r.stop {
				stopped = fmt.Errorf("%w: signal passed on by the old process", ErrStopped)
				cancel(stopped)
				m.giveUp(stopped)
			} else {
				again = true
			}
		case err := <-result:
			if again || errors.Is(err, ErrSplitting) || errors.Is(err, ErrSuperseded) {
				m.request(request{})
			}
			return m.afterSplit(err, stopped)
		}
	}
}

// afterSplit decides how Wait goes on.
func (m *Registry) afterSplit(err, stopped error) error {
	switch {
	case err == nil, errors.Is(err, ErrSuperseded):
		if stopped != nil {
			m.passOn(request{stop: true})
		}
		return ErrSuperseded
	case stopped != nil:
		return stopped
	case errors.Is(err, ErrSplitting):
		return nil // the other one has failed; now it is this one's turn
	}
	m.log.Error("mitosis: split failed, serving on", "error", err)
	return nil
}

// request asks Wait for a split or the end. One that waits already is enough.
func (m *Registry) request(r request) {
	select {
	case m.requests <- r:
	default:
	}
}

// awaitOtherSplit returns nil if this generation serves when no split is under way.
func (m *Registry) awaitOtherSplit() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.awaitNoSplit()
}

// passOnSplits forwards split signals for as long as this process drains. What was
// caught before Close goes too.
func (m *Registry) passOnSplits() {
	defer close(m.passedOn)
	over := m.over
	for {
		select {
		case <-m.signals.split:
			m.passOn(request{})
			continue
		case r := <-m.requests:
			m.passOn(r)
			continue
		default:
		}
		if over == nil {
			return
		}
		select {
		case <-m.signals.split:
			m.passOn(request{})
		case r := <-m.requests:
			m.passOn(r)
		case <-over:
			over = nil
		}
	}
}

// passOn gives a request to the generation that has taken over.
func (m *Registry) passOn(r request) {
	frame, err := wire.Message(wire.Signal, wire.Notice{Stop: r.stop})
	if err == nil {
		err = m.successor.Send(frame)
	}
	if err != nil {
		m.log.Warn("mitosis: a signal could not be passed on", "stop", r.stop, "error", err)
		return
	}
	m.log.Info("mitosis: signal passed on to the next generation", "stop", r.stop)
}

// maxPIDFile is more than the bytes of any process id.
const maxPIDFile = 64

// writePIDFile replaces the file by rename, so that nobody reads half of it.
func writePIDFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// removePIDFile removes the file if it still names this process. Whatever else
// somebody has put in its place is not read: a pipe would never end.
func removePIDFile(path string) error {
	info, err := os.Lstat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxPIDFile) {
		return nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(b)) != strconv.Itoa(os.Getpid()) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}
