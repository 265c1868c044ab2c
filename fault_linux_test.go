package mitosis

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The matrix of faults: at each step of a split, on each side, everything happens
// that can happen to a process or to its link. What has to come of it is said here,
// by rules; faultService makes it happen and finds out whether it came.

// faultOutcome is who owns the service after a fault.
type faultOutcome string

const (
	oldServesOn   faultOutcome = "the old process serves on"
	newTakesOver  faultOutcome = "the new process takes over"
	orphanTakes   faultOutcome = "the new process takes over what has arrived"
	serviceIsDown faultOutcome = "the service ends with its owner"
)

// effect is what a fault is to the split.
type effect int

const (
	harmless effect = iota // everything goes on
	deadly                 // the process ends
	stopping               // the process does not run, past the limit of the other one
	garbling               // the other process reads what makes no sense
	stifling               // nothing that is sent later arrives; a limit has to pass
	closing                // the link is closed, and both live
	starving               // the process gets no new descriptors
	pipeless               // the process gets no new pipes
)

// fault is something that a process does to itself.
type fault struct {
	name    string
	actions string // see faultyStep
	effect  effect
}

var faults = []fault{
	{"kill -9", "kill", deadly},
	{"exit 0", "exit 0", deadly},
	{"panic", "panic", deadly},
	{"SIGSTOP past the limit", "stop", stopping},
	{"SIGSTOP for a moment", "stop", harmless},
	{"garbage on the link", "garbage", garbling},
	{"a frame out of place", "nonsense", garbling},
	{"descriptors that no frame announces", "surplus", garbling},
	{"a truncated frame, then silence", "half", stifling},
	{"a truncated frame, then the end of the link", "half, close", closing},
	{"the link is closed", "close", closing},
	{"the descriptor limit is reached", "no more", starving},
	{"there is no memory for pipes", "no pipes", pipeless},
	{"the link is slow", "slow down", harmless},
	{"an unknown frame with descriptors", "unknown", harmless},
}

// faultCase is one cell of the matrix.
type faultCase struct {
	steps []string // of the side
	step  string
	fault
}

func (c faultCase) onOldSide() bool { return slices.Contains(oldSteps, c.step) }

// before says whether the case happens before a step of the same side.
func (c faultCase) before(step string) bool {
	return slices.Index(c.steps, c.step) < slices.Index(c.steps, step)
}

// outcome is the rule.
func (c faultCase) outcome() faultOutcome {
	if c.effect == harmless {
		return newTakesOver
	}
	if c.onOldSide() {
		return c.outcomeOnOldSide()
	}
	return c.outcomeOnNewSide()
}

// The new process is the owner when it has acknowledged the commit. Until then
// every fault of its own is its end, and after that nothing is but its death.
func (c faultCase) outcomeOnNewSide() faultOutcome {
	switch {
	case c.effect == pipeless:
		return newTakesOver // it makes none
	case c.effect == starving && !c.before(stepNewCommit):
		return newTakesOver // it has the last one that it needs
	case c.before(stepNewAcked):
		return oldServesOn
	case c.effect == deadly:
		return serviceIsDown
	}
	return newTakesOver
}

// The old process is the owner until COMMIT has been sent and its token was taken.
func (c faultCase) outcomeOnOldSide() faultOutcome {
	switch c.effect {
	case deadly:
		return c.outcomeOfOldProcessesEnd()
	case stopping:
		if c.step == stepOldStart {
			return newTakesOver // there is nobody yet whose limit could pass
		}
	case closing:
		if c.before(stepOldAcked) {
			return oldServesOn // the token is of no use without an acknowledgement
		}
	}
	if c.before(stepOldCommitted) {
		return oldServesOn
	}
	return newTakesOver
}

func (c faultCase) outcomeOfOldProcessesEnd() faultOutcome {
	switch c.step {
	case stepOldStart: // it was alone
		return serviceIsDown
	case stepOldSaving: // half a state is worse than none
		return serviceIsDown
	case stepOldCommitted, stepOldAcked:
		return newTakesOver
	}
	return orphanTakes
}

// What has arrived when the old process ends at a step.
func (c faultCase) stateArrived() bool { return c.outcome() != orphanTakes || !c.before(stepOldSaved) }
func (c faultCase) connsArrived() bool {
	return c.outcome() != orphanTakes || !c.before(stepOldCompleted)
}

// faultLimits are the limits of a case, apart from which no limit passes.
type faultLimits struct {
	ready, state, commit, exit time.Duration // of the old process
	join, patience             time.Duration // of the new one
}

// noFaultLimits are those of a split without a fault.
var noFaultLimits = faultLimits{ready: bound, state: bound, commit: bound, exit: exitTimeout, join: joinTimeout}

// limits lets one limit pass where the fault is that nothing comes.
func (c faultCase) limits(short time.Duration) (l faultLimits, passes bool) {
	l = noFaultLimits
	switch {
	case c.outcome() != oldServesOn:
		return l, false
	case c.effect == closing:
		l.exit = short
		return l, false
	case c.effect == stopping && c.step == stepOldStarted:
		l.join = short
	case c.effect == stopping && c.onOldSide():
		l.patience = short
	case c.effect == stopping, c.effect == stifling, c.effect == garbling && c.step == stepNewToken:
		switch c.step {
		case stepNewInit, stepNewJoined, stepNewWanting, stepOldStart, stepOldStarted:
			l.ready = short
		case stepNewWanted, stepNewLoading, stepNewLoaded,
			stepOldJoined, stepOldWanted, stepOldFrozen, stepOldSaving, stepOldSaved:
			l.state = short
		default:
			l.commit = short
		}
	default:
		return l, false
	}
	return l, true
}

// failure is what Split says when the old process serves on.
func (c faultCase) failure() (text string, err error) {
	old := c.onOldSide()
	switch c.effect {
	case deadly, closing:
		return "", ErrChildExited
	case garbling, stopping:
		switch {
		case old:
			return "", ErrRefused
		case c.effect == garbling:
			return "", ErrProtocol
		}
	case starving:
		switch {
		case old:
			return "too many open files", nil
		case c.before(stepNewWanting):
			return "", ErrChildExited // it cannot open what it needs, and exits
		}
		return "descriptor limit", ErrRefused
	case pipeless:
		return "too many open files in system", nil
	}
	return "", ErrTimeout
}

// counterpart is where the other process waits until the fault has happened, where
// it would otherwise be a matter of luck which of the two comes first.
var counterpart = map[string]string{
	stepNewWanted: stepOldWanted, stepNewLoading: stepOldSaving, stepNewReady: stepOldReady, stepNewCommit: stepOldCommitted,
	stepOldCommitted: stepNewCommit,
}

func (c faultCase) counterpart() string {
	if c.onOldSide() && c.effect != closing {
		return "" // nothing that the new process does depends on it
	}
	return counterpart[c.step]
}

// newActions is what the new process does. One that is not yet the owner, and has
// spoilt the link, does nothing more: what the old one finds has one meaning.
func (c faultCase) newActions() string {
	if c.before(stepNewAcked) && (c.effect == garbling || c.effect == stifling) {
		return c.actions + ", hold"
	}
	return c.actions
}

func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	count := 0
	for _, steps := range [][]string{oldSteps, newSteps} {
		for _, step := range steps {
			var cases []faultCase
			for _, f := range faults {
				cases = append(cases, faultCase{steps, step, f})
			}
			count += len(cases)
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				runFaultCases(t, cases)
			})
		}
	}
	require.GreaterOrEqual(t, count, 300)
	t.Logf("%d cases", count)
}

// runFaultCases runs cases one after another on one service, for as long as it
// lives.
func runFaultCases(t *testing.T, cases []faultCase) {
	seen := map[string]bool{}
	var s *faultService
	for _, c := range cases {
		require.False(t, seen[c.name], c.name)
		seen[c.name] = true
		if s == nil {
			s = startFaultService(t)
		}
		s.dialLives()
		healthy := t.Run(c.name, func(t *testing.T) {
			s.use(t)
			s.run(c)
			t.Logf("%s / %s → %s", strings.Replace(c.step, ": ", " / ", 1), c.name, c.outcome())
		})
		s.use(t)
		if !healthy || c.outcome() == serviceIsDown {
			s = nil
		}
	}
	if s != nil {
		s.stop()
	}
}

func (l faultLimits) args() []string {
	return []string{fmt.Sprint(l.ready), fmt.Sprint(l.state), fmt.Sprint(l.commit), fmt.Sprint(l.exit)}
}
