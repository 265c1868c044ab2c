//go:build unix

package mitosis

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThereIsOneSplitAtATime(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) { p.Stay = true }))
	first.plans(web(warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	_, err := second.try("split")
	assert.ErrorIs(t, err, ErrNotReady)
	for range 3 {
		_, err := first.try("split")
		require.ErrorIs(t, err, ErrSplitting)
	}
	second.do("release", "ready")
	_, err = first.answer(done)
	require.NoError(t, err)
	_, err = first.try("split")
	assert.ErrorIs(t, err, ErrSuperseded)
	_, err = first.try("open", "late", "listen", "tcp", anywhere)
	assert.ErrorIs(t, err, ErrSuperseded)
	_, err = first.try("remove", "web")
	assert.ErrorIs(t, err, ErrSuperseded)
	first.do("wait until superseded")
	assert.Empty(t, first.started, "no other process was started")
}

func TestClosingTheRegistryGivesASplitUp(t *testing.T) {
	t.Parallel()
	for _, step := range []string{stepNewInit, stepNewWanting, stepNewLoaded, stepNewCommit} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) { p.Stay = true }))
			address := first.do("address", "web")
			first.plans(web(at(step, "hold")))
			done := first.begin("split")
			second := first.generation()
			second.await("held")
			first.do("close registry")
			_, err := first.answer(done)
			assert.ErrorIs(t, err, ErrClosed)
			second.awaitEnd()
			assert.ErrorIs(t, first.await("waited").Error, ErrClosed)
			refuses(t, "tcp", address)
		})
	}
}

// With the registry the new process closes, the old one learns why.
func TestANewProcessThatGivesUpFailsTheSplit(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	watcher := watch(first)
	first.plans(web(warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	second.do("close registry")
	second.do("release", "ready")
	_, err := first.answer(done)
	assert.ErrorIs(t, err, ErrChildExited)
	assert.ErrorIs(t, second.await("ready").Error, ErrClosed)
	watcher.unharmed()
}

func TestTheSecondGenerationIsAsStrictAsTheFirst(t *testing.T) {
	t.Parallel()
	second := start(t, web()).split()
	_, err := second.try("state", "late")
	assert.ErrorIs(t, err, ErrTooLate)
	_, err = second.try("ready")
	assert.ErrorContains(t, err, "before")
	_, err = second.try("open", "web", "listen", "tcp", anywhere)
	assert.ErrorIs(t, err, ErrNameTaken)
}

func init() {
	functions["state"] = func(a *application, args []string) (string, error) {
		return "", a.m.State(args[0], JSON(new(int)))
	}
	functions["ready"] = func(a *application, _ []string) (string, error) {
		return "", a.m.Ready(a.ctx)
	}
}
