//go:build unix

package mitosis

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASignalSplits(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR2} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			first.dial("web").ask("hello")
			first.signal(s)
			second := first.generation()
			second.await("serving")
			assert.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
			assert.Equal(t, 2, second.dial("web").ask("hello").Generation)
		})
	}
}

func TestAStopSignalEndsWait(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			first.signal(s)
			assert.ErrorIs(t, first.await("waited").Error, ErrStopped)
			first.awaitEnd()
		})
	}
}

func TestASignalThatComesBeforeWaitIsServedByIt(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) { p.Deaf = true }))
	first.await("deaf")
	first.program.plans(web())
	first.signal(syscall.SIGHUP)
	assert.Equal(t, 1, first.dial("web").ask("alive").Generation)
	first.do("release", "wait")
	second := first.generation()
	second.await("serving")
	assert.Equal(t, 2, second.dial("web").ask("hello").Generation)
}

func TestASplitSignalDuringASplitIsForTheNextGeneration(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	first.program.plans(web(func(p *plan) { p.Warm = true }))
	first.signal(syscall.SIGHUP)
	second := first.generation()
	second.await("warm")
	first.program.plans(web())
	first.signal(syscall.SIGHUP) // the program may have been changed since the first
	second.do("release", "ready")
	second.await("serving")
	third := second.generation()
	third.await("serving")
	assert.Equal(t, 3, third.dial("web").ask("hello").Generation)
}

func TestASplitSignalDuringASplitThatFailsLeadsToAnother(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	first.program.plans(web(func(p *plan) { p.Warm = true }))
	first.signal(syscall.SIGHUP)
	failing := first.generation()
	failing.await("warm")
	first.program.plans(web())
	first.signal(syscall.SIGHUP)
	failing.begin("exit")
	second := first.generation()
	second.await("serving")
	assert.Equal(t, 2, second.dial("web").ask("hello").Generation)
}

func TestAStopSignalGivesASplitUp(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	first.program.plans(web(func(p *plan) { p.Warm = true }))
	first.signal(syscall.SIGHUP)
	second := first.generation()
	second.await("warm")
	first.signal(syscall.SIGTERM)
	assert.ErrorIs(t, first.await("waited").Error, ErrStopped)
	second.awaitEnd()
	first.awaitEnd()
}

func TestAStopSignalThatComesTooLateForThatReachesTheNextGeneration(t *testing.T) {
	t.Parallel()
	first := start(t, web(at(stepOldAcked, "hold")))
	first.program.plans(web())
	first.signal(syscall.SIGHUP)
	second := first.generation()
	second.await("serving")
	first.await("held")
	first.signal(syscall.SIGTERM)
	first.program.awaitLog("stop requested", `"generation":1`)
	first.do("release", stepOldAcked)
	assert.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
	assert.ErrorIs(t, second.await("waited").Error, ErrStopped)
	second.awaitEnd()
}

func TestASplitSignalToADrainingProcessIsPassedOn(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) { p.Stay = true }))
	first.program.plans(web())
	second := first.split()
	first.await("waited")
	first.signal(syscall.SIGHUP)
	third := second.generation()
	third.await("serving")
	assert.Equal(t, 3, third.dial("web").ask("hello").Generation)
}

func TestAStopSignalEndsADrainingProcessAtOnce(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) { p.Stay = true }))
	first.program.plans(web())
	second := first.split()
	first.await("waited")
	first.signal(syscall.SIGTERM)
	first.awaitEnd()
	assert.Equal(t, 2, second.dial("web").ask("hello").Generation)
}

func TestAGenerationSplitsWhileItsGrandparentDrains(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) { p.Stay = true }))
	old := first.dial("web")
	old.ask("before")
	second := first.split()
	third := second.split()
	assert.Equal(t, 1, old.ask("here").Generation)
	assert.Equal(t, 3, third.dial("web").ask("hello").Generation)
}

func TestWaitSaysWhyItEnds(t *testing.T) {
	m := newBare(t, Options{Logger: slog.New(slog.DiscardHandler)})
	assert.ErrorIs(t, m.Wait(t.Context()), ErrNotReady)
	require.NoError(t, m.Ready(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, m.Wait(ctx), context.Canceled)
	require.NoError(t, m.Close())
	assert.ErrorIs(t, m.Wait(t.Context()), ErrClosed)
}

// newBare returns a registry that catches no signals.
func newBare(t testing.TB, o Options) *Registry {
	t.Helper()
	m, err := newInProcess(o, inheritance{})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func TestThePIDFileBelongsToTheCommittedGeneration(t *testing.T) {
	t.Parallel()
	path := filepath.Join(temporary(t), "pid")
	withFile := web(func(p *plan) { p.Options.PIDFile = path })
	first := start(t, withFile)
	names := func(p *generation) {
		t.Helper()
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(p.pid)+"\n", string(b))
	}
	names(first)

	stop, watched := make(chan struct{}), make(chan error, 1)
	go func() { // it is never missing or half written
		for {
			select {
			case <-stop:
				watched <- nil
				return
			default:
			}
			b, err := os.ReadFile(path)
			if err == nil && (!strings.HasSuffix(string(b), "\n") || len(b) < 2) {
				err = strconv.ErrSyntax
			}
			if err != nil {
				watched <- err
				return
			}
		}
	}()
	first.program.plans(web(func(p *plan) { p.Options.PIDFile = path; p.Fate = "exit 3" }))
	failed := first.begin("split")
	first.program.generation() // the one that goes wrong
	_, err := first.answer(failed)
	require.ErrorIs(t, err, ErrChildExited)
	names(first)
	first.program.plans(withFile)
	current := first
	for range 5 {
		next := current.split()
		current.awaitEnd()
		names(next)
		current = next
	}
	close(stop)
	require.NoError(t, <-watched)
	current.signal(syscall.SIGTERM)
	current.awaitEnd()
	require.NoFileExists(t, path)
}
