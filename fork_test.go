//go:build unix

package mitosis

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// short is a limit that is meant to expire.
const short = 300 * time.Millisecond

func init() {
	commandHooks["path"] = func(c *Command, value []string) error {
		c.Path = value[0]
		return nil
	}
}

// fate changes a plan.
func fate(what string) func(*plan) { return func(p *plan) { p.Fate = what } }

func TestAProgramThatCannotBeStartedFailsTheSplit(t *testing.T) {
	t.Parallel()
	dir := temporary(t)
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
		return path
	}
	for _, c := range []struct {
		name, path string
		err        error
	}{
		{"missing", filepath.Join(dir, "nothing"), os.ErrNotExist},
		{"a directory", dir, os.ErrPermission},
		{"not executable", write("plain", "#!/bin/sh\n", 0o644), os.ErrPermission},
		{"a text", write("text", "Lorem ipsum\n", 0o755), syscall.ENOEXEC},
		{"a script without its interpreter", write("script", "#!/nothing/at/all\n", 0o755), os.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) {
				p.Options.Command, p.Options.CommandValue = "path", []string{c.path}
			}))
			watcher := watch(first)
			err := first.failSplit()
			assert.ErrorIs(t, err, c.err)
			assert.ErrorContains(t, err, c.path)
			first.do("change the command", "")
			watcher.unharmed()
		})
	}
}

func TestANewProcessThatGoesWrongFailsTheSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fate string
		err  error
		text string
	}{
		{"exit 0", ErrChildExited, "exit status 0, during warm-up"},
		{"exit 3", ErrChildExited, "exit status 3, during warm-up"},
		{"panic", ErrChildExited, "exit status 2, during warm-up"},
		{"overflow its stack", ErrChildExited, "exit status 2, during warm-up"},
		{"close the link and live", ErrChildExited, "had to be killed"},
		{"close the link and exit", ErrChildExited, "exit status 0"},
		{"close the link after JOIN and live", ErrProtocol, "signal: killed"},
		{"send garbage", ErrProtocol, "killed during warm-up"},
		{"send half a frame and exit", ErrChildExited, "exit status 0"},
		{"send a frame of an unknown kind", ErrProtocol, "0x7e"},
		{"send an unknown version", ErrVersion, "2"},
		{"send another pid", ErrProtocol, "exec"},
		{"send JOIN without sense", ErrProtocol, "JOIN"},
		{"send READY where JOIN should be", ErrProtocol, "READY where JOIN was expected"},
		{"send ACK where READY should be", ErrProtocol, "ACK where READY was expected"},
		{"send a descriptor with JOIN", ErrProtocol, "descriptors"},
		{"refuse and live", ErrRefused, "I would rather not"},
	} {
		t.Run(c.fate, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			watcher := watch(first)
			first.plans(web(fate(c.fate)))
			err := first.failSplit()
			child := first.generation()
			assert.ErrorIs(t, err, c.err)
			assert.ErrorContains(t, err, c.text)
			assert.ErrorContains(t, err, strconv.Itoa(child.pid), "it names the process")
			watcher.unharmed()
		})
	}
}

func TestAnApplicationThatFailsToWarmUpFailsTheSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		plan func(*plan)
		err  error
		text string
	}{
		{"its options are invalid", func(p *plan) { p.Options.Ready = -1 }, ErrChildExited, "exit status 1"},
		{"it opens a port that is taken", func(p *plan) {
			p.Sockets = []plannedSocket{{"other", "listen", "tcp", "192.0.2.1:1"}}
		}, ErrChildExited, "exit status 1"},
		{"it uses a name twice", func(p *plan) { p.Sockets = append(p.Sockets, p.Sockets...) }, ErrChildExited, "exit status 1"},
		{"a state does not load", func(p *plan) {
			p.States = []plannedState{{Name: "requests", Kind: "bytes", Load: "error"}}
		}, ErrRefused, errMisbehaviour.Error()},
		{"the loading of a state panics", func(p *plan) {
			p.States = []plannedState{{Name: "requests", Kind: "bytes", Load: "panic"}}
		}, ErrRefused, "panic: " + errMisbehaviour.Error()},
		{"a state is of another type", func(p *plan) {
			p.States = []plannedState{{Name: "requests", Kind: "json"}}
		}, ErrRefused, `state "requests"`},
		{"it loses patience", func(p *plan) {
			p.States = []plannedState{{Name: "requests", Kind: "bytes", Load: "hold"}}
			p.Patience = short
		}, ErrRefused, "deadline exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			watcher := watch(first)
			first.plans(web(c.plan))
			err := first.failSplit()
			child := first.generation()
			assert.ErrorIs(t, err, c.err)
			assert.ErrorContains(t, err, c.text)
			assert.ErrorContains(t, err, strconv.Itoa(child.pid))
			watcher.unharmed()
		})
	}
}

func TestALimitThatIsExceededFailsTheSplit(t *testing.T) {
	t.Parallel()
	t.Run("while the new process warms up", func(t *testing.T) {
		t.Parallel()
		first := start(t, web(func(p *plan) { p.Options.Ready = short }))
		watcher := watch(first)
		first.plans(web(fate("hang")))
		err := first.failSplit()
		assert.ErrorIs(t, err, ErrTimeout)
		assert.ErrorContains(t, err, "warm-up")
		assert.ErrorContains(t, err, strconv.Itoa(first.generation().pid))
		first.do("be patient")
		watcher.unharmed()
	})
	t.Run("while the application comes to rest", func(t *testing.T) {
		t.Parallel()
		first := start(t, web(func(p *plan) { p.Options.Freeze = short }))
		watcher := watch(first)
		first.do("lock", "requests")
		err := first.failSplit()
		first.generation()
		assert.ErrorIs(t, err, ErrTimeout)
		assert.ErrorContains(t, err, "freeze")
		assert.ErrorContains(t, err, `state "requests" does not come to rest`)
		first.do("unlock", "requests")
		first.do("be patient")
		watcher.unharmed()
	})
	t.Run("while a state is saved", func(t *testing.T) {
		t.Parallel()
		first := start(t, web(func(p *plan) {
			p.Options.State, p.Options.Freeze = short, short
			p.States = append(p.States, plannedState{Name: "slow", Kind: "bytes", Save: "hold"})
		}))
		watcher := watch(first)
		first.plans(web(func(p *plan) { p.States = append(p.States, plannedState{Name: "slow", Kind: "bytes"}) }))
		err := first.failSplit()
		first.generation()
		assert.ErrorIs(t, err, ErrTimeout)
		assert.ErrorContains(t, err, "transfer")
		assert.ErrorContains(t, err, `state "slow"`)
		first.awaitLog("Save does not return", `"name":"slow"`)
		first.do("release", "save")
		first.do("be patient")
		watcher.unharmed()
	})
	t.Run("while a state is loaded", func(t *testing.T) {
		t.Parallel()
		first := start(t, web(func(p *plan) { p.Options.State = short }))
		watcher := watch(first)
		first.plans(web(func(p *plan) {
			p.States = []plannedState{{Name: "requests", Kind: "bytes", Load: "hold"}}
		}))
		err := first.failSplit()
		first.generation()
		assert.ErrorIs(t, err, ErrTimeout)
		assert.ErrorContains(t, err, "transfer")
		first.do("be patient")
		watcher.unharmed()
	})
	t.Run("while the new process takes over", func(t *testing.T) {
		t.Parallel()
		first := start(t, web(func(p *plan) { p.Options.Commit = short }))
		watcher := watch(first)
		first.plans(web(at(stepNewReady, "hold")))
		err := first.failSplit()
		first.generation()
		assert.ErrorIs(t, err, ErrTimeout)
		assert.ErrorContains(t, err, "commit")
		first.do("be patient")
		watcher.unharmed()
	})
}

func TestAStateThatIsNotSavedFailsTheSplit(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"error", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			broken := func(p *plan) {
				p.States = append(p.States, plannedState{Name: "broken", Kind: "bytes", Save: how})
			}
			first := start(t, web(broken))
			watcher := watch(first)
			err := first.failSplit()
			first.generation()
			if how == "error" {
				assert.ErrorIs(t, err, errMisbehaviour)
			}
			assert.ErrorContains(t, err, errMisbehaviour.Error())
			assert.ErrorContains(t, err, `state "broken"`)
			watcher.unharmed()
		})
	}
}

// Each case holds one of the two at a step, at which the other waits.
func TestASplitCanBeCancelledInEveryPhase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ phase, step string }{
		{"warm-up", stepNewInit},
		{"warm-up", stepNewJoined},
		{"warm-up", stepNewWanting},
		{"transfer", stepNewLoading},
		{"transfer", stepNewLoaded},
		{"commit", stepNewReady},
		{"commit", stepNewCommit},
	} {
		t.Run(c.phase+", "+c.step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			watcher := watch(first)
			first.plans(web(at(c.step, "hold")))
			cancelled(t, first, watcher, c.phase, func() { first.generation().await("held") })
		})
	}
	t.Run("freeze", func(t *testing.T) {
		t.Parallel()
		first := start(t, web())
		watcher := watch(first)
		first.do("lock", "requests")
		cancelled(t, first, watcher, "freeze", func() { first.generation() }, "requests")
	})
	t.Run("transfer, Save", func(t *testing.T) {
		t.Parallel()
		slow := func(p *plan) { p.States = append(p.States, plannedState{Name: "slow", Kind: "bytes", Save: "hold"}) }
		first := start(t, web(slow))
		watcher := watch(first)
		cancelled(t, first, watcher, "transfer", func() {
			first.await("held")
			first.generation()
		}, "", "save")
	})
}

// cancelled cancels a split when it is where it should be.
func cancelled(t *testing.T, first *generation, watcher *bystander, phase string, there func(), undo ...string) {
	t.Helper()
	done := first.begin("split")
	there()
	first.awaitLog(`"phase":"` + phase + `"`)
	first.do("cancel")
	for i, name := range undo {
		if name != "" {
			first.do([]string{"unlock", "release"}[i], name)
		}
	}
	_, err := first.answer(done)
	require.ErrorIs(t, err, errCancelled)
	assert.ErrorContains(t, err, phase)
	watcher.unharmed()
}
