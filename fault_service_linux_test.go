package mitosis

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faultService is a service that faults are tried on: a chain of generations with a
// listener, live connections and a state, all of them in use.
type faultService struct {
	t       testing.TB
	p       *generation // the owner
	address string
	ledger  *faultLedger
	lives   []*faultTraffic
	traffic []*faultTraffic // all that goes on by itself
	visits  *faultTraffic

	neighbour *client      // accepted by the owner, and quiet
	base      inventory    // of an owner that rests
	dead      map[int]bool // processes that may not have called back
	leaky     bool         // descriptors were prevented from being closed
	traced    bool         // the owner sends its reports from a goroutine of its own
}

// faultPlan is the plan of all generations. They call Accept before Ready, so that
// one that owns too early would be seen.
func faultPlan(change ...func(*plan)) plan {
	return web(append([]func(*plan){func(p *plan) { p.Fate, p.Eager = "be faulty", true }}, change...)...)
}

// startFaultService starts the service. Its owner is a second generation: the
// following ones have neither more nor less than it.
func startFaultService(t testing.TB) *faultService {
	t.Helper()
	s := &faultService{t: t, p: start(t, faultPlan()), ledger: &faultLedger{}, dead: map[int]bool{}}
	s.address = s.p.do("address", "web")
	s.takeUp(0)
	s.visits = s.ledger.startVisitors(s.address)
	s.traffic = append(s.traffic, s.visits)
	s.dialLives()
	t.Cleanup(s.stop)
	old := s.p
	s.p = old.split()
	old.awaitEnd()
	s.takeUp(faultLives)
	require.Eventually(t, func() bool {
		stacks := s.p.do("stacks")
		return !strings.Contains(stacks, "mitosis.pump") && !strings.Contains(stacks, "hearing).run")
	}, bound, time.Millisecond, "it still hears its predecessor")
	s.base = s.p.inventory()
	return s
}

// stop ends the traffic.
func (s *faultService) stop() {
	for _, f := range s.traffic {
		f.stop()
	}
}

// use says whose failure it is from now on.
func (s *faultService) use(t testing.TB) { s.t, s.p.program.t = t, t }

// dialLives lets the owner dial live connections, if it has none.
func (s *faultService) dialLives() {
	if len(s.lives) > 0 {
		return
	}
	for i := range faultLives {
		name := fmt.Sprintf("live %d", i)
		live := s.ledger.startLive(name, s.p.dialBack(name))
		s.p.do("answer", name)
		s.lives = append(s.lives, live)
		s.traffic = append(s.traffic, live)
	}
}

// takeUp lets the owner answer on the live connections that it has inherited.
func (s *faultService) takeUp(n int) {
	s.t.Helper()
	require.Equal(s.t, strconv.Itoa(n), s.p.do("take up"), "live connections")
}

func (s *faultService) goOn() {
	for _, f := range s.traffic {
		f.goOn()
	}
}

func (s *faultService) rest() {
	s.t.Helper()
	for _, f := range s.traffic {
		f.rest(s.t)
	}
}

// run makes the fault happen, and finds out what comes of it.
func (s *faultService) run(c faultCase) {
	s.neighbour = dial(s.t, "tcp", s.address)
	s.greetNeighbour(s.p)
	before := s.p.inventory()
	s.goOn()
	for _, f := range s.traffic {
		f.flows(s.t)
	}
	if c.effect == starving && c.onOldSide() {
		s.visits.rest(s.t) // those who go would leave descriptors behind
	}
	split := s.provoke(c)
	switch c.outcome() {
	case oldServesOn:
		s.oldServesOn(split, c, before)
	case serviceIsDown:
		s.serviceIsDown(split, c)
		return
	default:
		s.takesOver(split, c)
	}
	s.splitsAgain()
}

// provoke splits with the fault. Where a limit has to pass it may be that the
// machine was too slow to come to the step in time; then it gets more time.
func (s *faultService) provoke(c faultCase) *faultSplit {
	s.t.Helper()
	for short := 150 * time.Millisecond; ; short *= 2 {
		limits, passes := c.limits(short)
		s.p.do("limits", limits.args()...)
		next := func(p *plan) { p.Join, p.Patience = limits.join, limits.patience }
		counterpart := c.counterpart()
		if c.onOldSide() {
			s.p.plans(faultPlan(next, at(counterpart, "hold")))
			s.p.do("arm", c.step, c.actions)
		} else {
			s.p.plans(faultPlan(next, at(c.step, c.newActions())))
			s.p.do("arm", counterpart, "hold")
		}
		split := s.begin("split")
		reached := false
		if c.onOldSide() {
			s.playOldSide(c, split)
			reached = s.p.awaitAny(split.done, "reached") != ""
		} else {
			s.playNewSide(c, split)
			reached = split.child != nil && split.child.awaitAny(nil, "reached") != ""
		}
		if reached {
			return split
		}
		awaitClosed(s.t, split.done, "the end of the split")
		require.True(s.t, passes && short < bound/4, "the step was not reached: %v", split.err)
		s.reset()
	}
}

// reset takes the faults back that have not happened.
func (s *faultService) reset() {
	s.p.do("recover")
	s.p.do("limits", noFaultLimits.args()...)
}

func (s *faultService) playOldSide(c faultCase, split *faultSplit) {
	s.t.Helper()
	if counterpart := c.counterpart(); counterpart != "" {
		s.awaitChild(split, true)
		split.child.await("held")
		s.p.await("done")
		split.child.do("release", counterpart)
	}
	if c.actions != "stop" {
		return
	}
	if s.p.awaitAny(split.done, "stopped") == "" {
		return // the limit has passed too early
	}
	if c.effect == stopping && c.step != stepOldStart {
		s.awaitChild(split, true)
		if c.outcome() == oldServesOn {
			awaitClosed(s.t, split.child.gone, "the new process to give up")
		} else {
			split.awaitServing()
			require.Equal(s.t, split.child.pid, s.visit().Pid, "the old process is stopped")
		}
	}
	s.p.goOn()
}

func (s *faultService) playNewSide(c faultCase, split *faultSplit) {
	s.t.Helper()
	_, passes := c.limits(0)
	s.awaitChild(split, !passes)
	if split.child == nil {
		return // the limit has passed too early
	}
	if counterpart := c.counterpart(); counterpart != "" {
		if s.p.awaitAny(split.done, "held") == "" {
			return
		}
		split.child.awaitAny(nil, "done", "held", "stopped")
		s.p.do("release", counterpart)
	}
	switch {
	case c.actions == "stop" && c.effect == harmless:
		split.child.goOn()
	case c.effect == stopping && c.outcome() == newTakesOver:
		awaitClosed(s.t, split.done, "the split to end")
		split.child.goOn()
	}
}

// visit asks who owns the listener.
func (s *faultService) visit() answer {
	s.t.Helper()
	c := dial(s.t, "tcp", s.address)
	defer c.hangUp()
	a := c.ask("visit")
	s.ledger.add(a, false)
	return a
}

// greetNeighbour asks on the accepted connection.
func (s *faultService) greetNeighbour(p *generation) {
	s.t.Helper()
	a := s.neighbour.ask("neighbour")
	require.Equal(s.t, p.pid, a.Pid)
	s.ledger.add(a, false)
}

// serves asserts that the owner serves everybody, and nobody else does.
func (s *faultService) serves() {
	s.t.Helper()
	require.Equal(s.t, s.p.pid, s.visit().Pid)
	for _, f := range s.traffic {
		f.flows(s.t)
	}
	s.rest()
}

// oldServesOn asserts that nothing has changed.
func (s *faultService) oldServesOn(split *faultSplit, c faultCase, before inventory) {
	s.t.Helper()
	awaitClosed(s.t, split.done, "the split to end")
	text, failure := c.failure()
	require.ErrorContains(s.t, split.err, text)
	if failure != nil {
		require.ErrorIs(s.t, split.err, failure)
	}
	s.goesOn(split, before)
}

// goesOn asserts that a failed split has changed nothing.
func (s *faultService) goesOn(split *faultSplit, before inventory) {
	s.t.Helper()
	s.bury(split.err)
	for split.child == nil && len(s.p.started) > 0 { // it came when nobody waited for it
		split.child = <-s.p.started
	}
	if split.child != nil {
		awaitClosed(s.t, split.child.gone, "the new process to end")
	}
	s.reset()
	s.serves()
	s.greetNeighbour(s.p)
	s.ledger.balanceOf(s.t, s.p)
	s.p.settlesTo(before.Goroutines, func(now inventory) bool {
		return s.leaky || assert.ObjectsAreEqual(sorted(before.Descriptors), sorted(now.Descriptors))
	}, before)
}

// takesOver asserts that the new process has everything that has arrived.
func (s *faultService) takesOver(split *faultSplit, c faultCase) {
	s.t.Helper()
	s.awaitChild(split, true)
	next, old := split.child, s.p
	split.awaitServing()
	next.do("recover")
	awaitClosed(s.t, split.done, "the split to end")
	killed := c.effect == deadly // and so the old process
	if killed {
		s.neighbour.hasDied()
	} else {
		require.NoError(s.t, split.err)
		old.do("recover")
		s.greetNeighbour(old) // what it had accepted it drains
		s.neighbour.hangUp()
	}
	s.p = next
	if c.connsArrived() {
		s.takeUp(faultLives)
	} else {
		s.takeUp(0)
		s.livesEnd()
	}
	s.serves()
	old.awaitEnd()
	s.ledger.balance(s.t, old, next, c)
	s.restsAsBefore(c.connsArrived())
}

func (s *faultService) livesEnd() {
	s.t.Helper()
	for _, f := range s.lives {
		f.ends(s.t)
		f.stop()
	}
	s.lives, s.traffic = nil, []*faultTraffic{s.visits}
}

// splitsAgain splits without a fault.
func (s *faultService) splitsAgain() {
	s.t.Helper()
	if s.neighbour != nil {
		s.neighbour.hangUp()
	}
	s.goOn()
	s.p.plans(faultPlan())
	split := s.begin("split")
	s.awaitChild(split, true)
	next, old := split.child, s.p
	split.awaitServing()
	awaitClosed(s.t, split.done, "the split to end")
	require.NoError(s.t, split.err)
	s.p = next
	s.takeUp(len(s.lives))
	s.serves()
	old.awaitEnd()
	s.ledger.balance(s.t, old, next, faultCase{})
	s.restsAsBefore(len(s.lives) > 0)
}

// serviceIsDown asserts that nobody owns anything any more.
func (s *faultService) serviceIsDown(split *faultSplit, c faultCase) {
	s.t.Helper()
	awaitClosed(s.t, split.done, "the split to end")
	s.awaitChild(split, !c.onOldSide() || c.step != stepOldStart)
	if split.child != nil {
		split.child.awaitEnd()
	}
	s.livesEnd()
	if c.onOldSide() {
		s.neighbour.hasDied()
	} else {
		require.NoError(s.t, split.err, "it had taken over")
		s.greetNeighbour(s.p)
		s.neighbour.hangUp()
	}
	s.p.awaitEnd()
	s.stop()
	refuses(s.t, "tcp", s.address)
}
