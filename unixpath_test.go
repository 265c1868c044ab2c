//go:build unix

package mitosis

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unixWeb returns a path, and the plan of an application that listens there.
func unixWeb(t *testing.T, change ...func(*plan)) (string, plan) {
	path := filepath.Join(temporary(t), "socket")
	return path, web(append([]func(*plan){listenTo("listen", "unix", path)}, change...)...)
}

func TestTheLastOwnerUnlinksAUnixSocketWhenItCloses(t *testing.T) {
	t.Parallel()
	for _, what := range []struct{ name, call, argument string }{
		{"with the registry", "close registry", ""},
		{"alone", "close", "web"},
	} {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			path, p := unixWeb(t)
			first := start(t, p)
			second := first.split()
			first.awaitEnd() // it has closed its registry
			assert.FileExists(t, path)
			third := second.split()
			second.awaitEnd()
			assert.Equal(t, 3, dial(t, "unix", path).ask("a").Generation)
			third.do(what.call, what.argument)
			assert.NoFileExists(t, path)
		})
	}
}

func TestAFailedGenerationLeavesTheUnixSocketAlone(t *testing.T) {
	t.Parallel()
	path, p := unixWeb(t)
	first := start(t, p)
	for _, change := range []func(*plan){
		at(stepNewJoined, "kill"),
		at(stepNewLoaded, "kill"),
		at(stepNewToken, "kill"),
		func(p *plan) { // Ready closes the registry
			p.States = []plannedState{{Name: "requests", Kind: "bytes", Load: "error"}}
		},
	} {
		failing := p
		change(&failing)
		first.plans(failing)
		first.failSplit()
		assert.Equal(t, 1, dial(t, "unix", path).ask("a").Generation)
	}
	first.do("close registry")
	assert.NoFileExists(t, path)
}

func TestAFailedGenerationUnlinksTheUnixSocketThatItOpenedItself(t *testing.T) {
	t.Parallel()
	before, p := unixWeb(t)
	first := start(t, p)
	after, p := unixWeb(t)
	p.States = []plannedState{{Name: "requests", Kind: "bytes", Load: "error"}}
	first.plans(p)
	require.ErrorIs(t, first.failSplit(), ErrRefused)
	assert.NoFileExists(t, after)
	assert.Equal(t, 1, dial(t, "unix", before).ask("a").Generation)
}

func TestAPathThatBelongsToAnotherSocketNowIsLeftAlone(t *testing.T) {
	t.Parallel()
	steal := func(t *testing.T, path string) {
		require.NoError(t, os.Remove(path))
		ln, err := net.Listen("unix", path)
		require.NoError(t, err)
		t.Cleanup(func() { ln.Close() })
	}
	t.Run("when the listener closes", func(t *testing.T) {
		t.Parallel()
		path, p := unixWeb(t)
		second := start(t, p).split()
		steal(t, path)
		second.do("close", "web")
		assert.FileExists(t, path)
		dial(t, "unix", path)
	})
	t.Run("when the registry closes", func(t *testing.T) {
		t.Parallel()
		path, p := unixWeb(t)
		first := start(t, p)
		steal(t, path)
		first.do("close registry")
		assert.FileExists(t, path)
	})
	t.Run("when nobody asks for it", func(t *testing.T) {
		t.Parallel()
		path, p := unixWeb(t)
		first := start(t, p)
		steal(t, path)
		first.plans(plan{})
		first.split()
		assert.FileExists(t, path)
	})
}

func TestTheUnixSocketThatNobodyAsksForIsUnlinkedAtTheCommit(t *testing.T) {
	t.Parallel()
	path, p := unixWeb(t)
	first := start(t, p)
	first.plans(web(warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	assert.Equal(t, 1, dial(t, "unix", path).ask("a").Generation)
	second.do("release", "ready")
	_, err := first.answer(done)
	require.NoError(t, err)
	assert.NoFileExists(t, path)
}

func TestClosingAUnixListenerDuringASplitLeavesThePathToTheNextGeneration(t *testing.T) {
	t.Parallel()
	path, p := unixWeb(t)
	first := start(t, p)
	p.Warm = true
	first.plans(p)
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	first.do("close", "web")
	early := dial(t, "unix", path)
	early.say("a")
	second.do("release", "ready")
	_, err := first.answer(done)
	require.NoError(t, err)
	assert.Equal(t, 2, early.hear().Generation)
	assert.Equal(t, 2, dial(t, "unix", path).ask("b").Generation)
}

func TestAUnixListenerClosedDuringASplitThatFailsIsUnlinked(t *testing.T) {
	t.Parallel()
	path, p := unixWeb(t)
	first := start(t, p)
	p.Warm = true
	first.plans(p)
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	first.do("close", "web")
	assert.FileExists(t, path)
	second.kill()
	_, err := first.answer(done)
	require.ErrorIs(t, err, ErrChildExited)
	assert.NoFileExists(t, path)
}
