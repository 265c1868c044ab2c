package mitosis

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
)

// faultSplit is a split that is under way.
type faultSplit struct {
	child  *generation // nil if it has not called back
	serves bool        // the child has said so
	done   chan struct{}
	err    error
}

// awaitServing waits until the new process serves.
func (split *faultSplit) awaitServing() {
	if !split.serves {
		split.child.await("serving")
	}
	split.serves = true
}

// begin begins a split, by the function of that name.
func (s *faultService) begin(function string) *faultSplit {
	split := &faultSplit{done: make(chan struct{})}
	answered, gone := s.p.begin(function), s.p.gone
	go func() {
		defer close(split.done)
		var answer event
		select {
		case answer = <-answered:
		case <-gone:
			select {
			case answer = <-answered: // its last words
			default:
				split.err = ErrOldDied
			}
		}
		if answer.Error != nil {
			split.err = answer.Error
		}
	}()
	return split
}

// awaitChild waits until the new process calls back. It may not come to that, if the
// split fails or the old process dies.
func (s *faultService) awaitChild(split *faultSplit, mustCome bool) {
	s.t.Helper()
	done := split.done
	if mustCome {
		done = nil
	}
	expired := time.After(bound)
	for split.child == nil {
		select {
		case p := <-s.p.started:
			if !s.dead[p.pid] {
				split.child = p
			}
		case <-done:
			if split.err == nil {
				done = nil // it is on its way
				continue
			}
			s.bury(split.err)
			return
		case <-expired:
			require.FailNow(s.t, "no new process has called back")
		}
	}
}

var pidInError = regexp.MustCompile(`pid (\d+)`)

// bury notes that the process that an error names is dead.
func (s *faultService) bury(err error) {
	if found := pidInError.FindStringSubmatch(err.Error()); found != nil {
		pid, _ := strconv.Atoi(found[1])
		s.dead[pid] = true
	}
}

// awaitAny waits until the process reports one of the events, ends, or done is
// closed. It returns the event's name, or "".
func (p *generation) awaitAny(done <-chan struct{}, names ...string) string {
	p.t.Helper()
	expired := time.After(bound)
	gone, ended := p.gone, false
	for {
		for len(p.events) > 0 {
			p.kept = append(p.kept, <-p.events)
		}
		for i, e := range p.kept {
			if slices.Contains(names, e.Name) {
				p.kept = slices.Delete(p.kept, i, i+1)
				return e.Name
			}
		}
		if ended {
			return ""
		}
		select {
		case e := <-p.events:
			p.kept = append(p.kept, e)
		case <-gone:
			ended = true
		case <-done:
			ended = true
		case <-expired:
			require.FailNow(p.t, fmt.Sprintf("process %d does none of %v; it said %+v", p.pid, names, p.kept))
		}
	}
}
