//go:build unix

package mitosis

import (
	"encoding/json"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// phaseOf is the phase of the old generation while the new one is at a step.
var phaseOf = map[string]string{
	stepNewInit: "warm-up", stepNewJoined: "warm-up", stepNewWanting: "warm-up",
	stepNewWanted: "transfer", stepNewLoading: "transfer", stepNewLoaded: "transfer",
	stepNewReady: "commit", stepNewCommit: "commit", stepNewToken: "commit",
}

func TestEveryStepIsTaken(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) { p.Trace = true }))
	second := first.split()
	for _, step := range oldSteps {
		assert.Equal(t, step, first.await("step").Text)
	}
	for _, step := range newSteps {
		assert.Equal(t, step, second.await("step").Text)
	}
}

func TestAProgramThatIsStartedAtAnyStepInheritsNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux shows the environment as it was at exec")
	}
	t.Parallel()
	// What the tests have themselves been started with is nobody's leak.
	var before stranger
	text, err := startStranger()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &before))
	first := start(t, web(func(p *plan) { p.Strange = true }))
	second := first.split()
	sees := func(p *generation, step string) {
		t.Helper()
		e := p.await("stranger")
		require.Nil(t, e.Error, step)
		var s stranger
		require.NoError(t, json.Unmarshal([]byte(e.Text), &s))
		require.GreaterOrEqual(t, len(s.Descriptors), 3, step)
		assert.Equal(t, before.Descriptors[3:], s.Descriptors[3:], step)
		assert.Empty(t, s.Environment, step)
		assert.Equal(t, 1, s.Generation, step)
	}
	for _, step := range oldSteps {
		sees(first, step)
	}
	for _, step := range newSteps {
		sees(second, step)
	}
}

func TestANewProcessKilledAtAnyStepBeforeItHasTakenOverChangesNothing(t *testing.T) {
	t.Parallel()
	for _, step := range newSteps {
		for _, how := range []struct{ action, status string }{{"kill", "signal: killed"}, {"exit", "exit status 3"}} {
			phase := phaseOf[step]
			if phase == "" {
				continue // it has taken over: see below
			}
			t.Run(how.action+" at "+strings.TrimPrefix(step, "new: "), func(t *testing.T) {
				t.Parallel()
				first := start(t, web())
				watcher := watch(first)
				first.plans(web(at(step, how.action)))
				err := first.failSplit()
				child := first.generation()
				require.ErrorIs(t, err, ErrChildExited)
				assert.ErrorContains(t, err, how.status)
				assert.ErrorContains(t, err, "pid "+strconv.Itoa(child.pid))
				if step != stepNewWanted && step != stepNewReady { // its end can be seen before its frame
					assert.ErrorContains(t, err, "during "+phase)
				}
				watcher.unharmed()
			})
		}
	}
}

// A process that dies when it has taken over takes the service with it, unless the
// old one sees its end first. There are never two, and never one that believes in
// the other.
func TestANewProcessKilledWhenItHasTakenOverIsNotTheOldOnesFault(t *testing.T) {
	t.Parallel()
	for _, step := range []string{stepNewAcked, stepNewSettled} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) { p.Stay = true }))
			watcher := watch(first)
			address := first.do("address", "web")
			first.plans(web(at(step, "kill")))
			_, err := first.try("split")
			first.generation().awaitEnd()
			if err != nil {
				require.ErrorIs(t, err, ErrChildExited)
				watcher.unharmed()
				return
			}
			assert.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
			refuses(t, "tcp", address)
			assert.Equal(t, 1, watcher.old.ask("a").Generation, "what it had accepted it drains")
		})
	}
}

func TestANewProcessStoppedAtAnyStepBeforeItHasTakenOverChangesNothing(t *testing.T) {
	t.Parallel()
	for _, step := range newSteps {
		phase := phaseOf[step]
		if phase == "" {
			continue // see below
		}
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) {
				switch {
				case phase == "warm-up":
					p.Options.Ready = short
				case phase == "transfer" && step != stepNewWanted:
					p.Options.State = short
				default: // the frames that it does not read are sent at once
					p.Options.State, p.Options.Commit = short, short
				}
			}))
			watcher := watch(first)
			first.plans(web(at(step, "stop")))
			err := first.failSplit()
			child := first.generation()
			require.ErrorIs(t, err, ErrTimeout)
			assert.ErrorContains(t, err, phase)
			assert.ErrorContains(t, err, "pid "+strconv.Itoa(child.pid))
			child.awaitEnd()
			first.do("be patient")
			watcher.unharmed()
		})
	}
}

func TestANewProcessStoppedWhenItHasTakenOverServesWhenItGoesOn(t *testing.T) {
	t.Parallel()
	for _, step := range []string{stepNewAcked, stepNewSettled} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			address := first.do("address", "web")
			first.plans(web(at(step, "stop")))
			first.do("split")
			second := first.generation()
			second.await("stopped")
			waiting := dial(t, "tcp", address)
			waiting.say("a")
			second.goOn()
			assert.Equal(t, answer{"a", 2, second.pid, 1}, waiting.hear())
		})
	}
}

// The new process owns what has arrived, or dies with an error that says why it
// cannot; nobody else does.
func TestAnOldProcessKilledAtAnyStepLeavesOneOwnerOrNone(t *testing.T) {
	t.Parallel()
	for _, step := range oldSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(at(step, "kill"), idle))
			address := first.do("address", "web")
			first.do("count") // one request
			queued := dial(t, "tcp", address)
			queued.say("a")
			first.plans(web(idle))
			first.begin("split")
			first.awaitEnd()
			switch step {
			case stepOldStart:
				refuses(t, "tcp", address)
				assert.Empty(t, first.started)
				return
			case stepOldSaving:
				second := first.generation()
				err := second.await("ready").Error
				require.NotNil(t, err)
				assert.ErrorIs(t, err, ErrTruncated)
				assert.ErrorIs(t, err, ErrOldDied)
				assert.ErrorContains(t, err, `"requests"`)
				second.awaitEnd()
				refuses(t, "tcp", address)
				return
			}
			second := first.generation()
			second.await("serving")
			second.do("serve")
			requests := 1 // the state had not arrived
			switch step {
			case stepOldSaved, stepOldCompleted, stepOldReady, stepOldCommitted, stepOldAcked:
				requests = 2
			}
			assert.Equal(t, answer{"a", 2, second.pid, requests}, queued.hear())
			if step != stepOldAcked && step != stepOldCommitted {
				first.awaitLog("old process died before the commit")
			}
			second.plans(web())
			third := second.split()
			assert.Equal(t, answer{"b", 3, third.pid, requests + 1}, third.dial("web").ask("b"))
		})
	}
}

// The old process is dead and its number is not free: whoever has to reap it is
// slow, or never will.
func TestAnOldProcessThatNobodyHasReapedIsDead(t *testing.T) {
	t.Parallel()
	for _, step := range []string{stepNewInit, stepNewJoined, stepNewLoaded} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			g := newProgram(t, web())
			g.reaped = make(chan struct{})
			g.launch()
			first := g.generation()
			first.await("serving")
			first.plans(web(at(step, "hold")))
			first.begin("split")
			second := first.generation()
			second.await("held")
			first.kill()
			awaitClosed(t, first.gone, "the first process to be dead")
			second.do("release", step)
			second.await("serving")
			close(g.reaped)
			assert.Equal(t, 2, second.dial("web").ask("a").Generation)
		})
	}
}
