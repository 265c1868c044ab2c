//go:build unix

package mitosis

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// identity is how a process was started.
type identity struct {
	Args            []string
	Dir, Executable string
	Variable        string
}

func init() {
	functions["identity"] = func(*application, []string) (string, error) {
		i := identity{Args: os.Args, Variable: os.Getenv("FOR_THE_NEXT")}
		i.Dir, _ = os.Getwd()
		i.Executable, _ = os.Executable()
		b, err := json.Marshal(i)
		return string(b), err
	}
	functions["chdir"] = func(_ *application, args []string) (string, error) { return "", os.Chdir(args[0]) }
	functions["setenv"] = func(_ *application, args []string) (string, error) { return "", os.Setenv(args[0], args[1]) }

	commandHooks["change all"] = func(c *Command, value []string) error {
		c.Args = []string{"other", "arguments"}
		c.Env = append(c.Env, "FOR_THE_NEXT=generation")
		c.Dir = value[0]
		return nil
	}
	commandHooks["fail"] = func(*Command, []string) error { return errMisbehaviour }
	commandHooks["panic"] = func(*Command, []string) error { panic(errMisbehaviour) }
	commandHooks["shell"] = func(c *Command, value []string) error {
		c.Args = append([]string{"-c", value[0], c.Path}, c.Args...)
		c.Path = "/bin/sh"
		return nil
	}
}

func (p *generation) identity() (i identity) {
	p.t.Helper()
	require.NoError(p.t, json.Unmarshal([]byte(p.do("identity")), &i))
	return i
}

// programPath returns the path of the test binary.
func programPath(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	return path
}

func TestARelativePathMeansTheSameProgramAfterAChangeOfDirectory(t *testing.T) {
	t.Parallel()
	path := programPath(t)
	first := start(t, web(), func(c *exec.Cmd) {
		c.Dir, c.Args = filepath.Dir(path), []string{"./" + filepath.Base(path), "an argument"}
	})
	before := first.identity()
	require.Equal(t, "./"+filepath.Base(path), before.Args[0])
	p := first
	for range 2 {
		p.do("chdir", "/")
		p = p.split()
		now := p.identity()
		assert.Equal(t, path, now.Executable)
		assert.Equal(t, before.Dir, now.Dir)
		assert.Equal(t, []string{"an argument"}, now.Args[1:])
	}
	p.isGeneration(3)
}

func TestAProgramThatWasFoundByPATHIsFoundAgain(t *testing.T) {
	t.Parallel()
	path := programPath(t)
	first := start(t, web(), func(c *exec.Cmd) {
		c.Args = []string{filepath.Base(path)}
		c.Env = append(c.Env, "PATH="+filepath.Dir(path))
	})
	first.do("setenv", "PATH", "/nothing")
	first.do("chdir", "/")
	second := first.split()
	assert.Equal(t, path, second.identity().Executable)
	second.isGeneration(2)
}

func TestASymbolicLinkThatWasSwappedLeadsToTheNewBinary(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(temporary(t))
	require.NoError(t, err)
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, version := range []string{"one", "two"} {
		// Not by this process: the copy would be open for writing in its children.
		out, err := exec.Command("cp", programPath(t), path(version)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.NoError(t, os.Symlink("one", path("current")))
	first := start(t, web(), func(c *exec.Cmd) { c.Path, c.Args = path("current"), []string{path("current")} })
	require.Equal(t, path("one"), first.identity().Executable)
	require.NoError(t, os.Symlink("two", path("next")))
	require.NoError(t, os.Rename(path("next"), path("current")))
	second := first.split()
	assert.Equal(t, path("two"), second.identity().Executable)
	second.isGeneration(2)
}

func TestADeletedWorkingDirectoryFailsTheSplit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(temporary(t), "deleted")
	require.NoError(t, os.Mkdir(dir, 0o755))
	first := start(t, web(), func(c *exec.Cmd) { c.Dir = dir })
	watcher := watch(first)
	require.NoError(t, os.Remove(dir))
	err := first.failSplit()
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "working directory")
	assert.ErrorContains(t, err, dir)
	require.NoError(t, os.Mkdir(dir, 0o755))
	watcher.unharmed()
}

func TestSplitPassesItsArgumentsOrTheProcesssOwn(t *testing.T) {
	t.Parallel()
	first := start(t, web(), func(c *exec.Cmd) { c.Args = append(c.Args, "first") })
	second := first.split()
	assert.Equal(t, []string{"first"}, second.identity().Args[1:])
	third := second.split("new", "", "and more")
	assert.Equal(t, []string{"new", "", "and more"}, third.identity().Args[1:])
	fourth := third.split()
	assert.Equal(t, []string{"new", "", "and more"}, fourth.identity().Args[1:])
}

func TestOptionsCommandChangesTheCommand(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(temporary(t))
	require.NoError(t, err)
	first := start(t, web(func(p *plan) { p.Options.Command, p.Options.CommandValue = "change all", []string{dir} }))
	first.plans(web())
	second := first.split("not these").identity()
	assert.Equal(t, []string{"other", "arguments"}, second.Args[1:])
	assert.Equal(t, dir, second.Dir)
	assert.Equal(t, "generation", second.Variable)
}

func TestOptionsCommandCanFailTheSplit(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"fail", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) { p.Options.Command = how }))
			watcher := watch(first)
			err := first.failSplit()
			if how == "fail" {
				assert.ErrorIs(t, err, errMisbehaviour)
			}
			assert.ErrorContains(t, err, errMisbehaviour.Error())
			first.do("change the command", "")
			watcher.unharmed()
		})
	}
}

func TestAWrapperThatExecsTheProgramIsNoObstacle(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) {
		p.Options.Command, p.Options.CommandValue = "shell", []string{`FOR_THE_NEXT=$$ exec "$0" "$@"`}
	}))
	first.plans(web())
	second := first.split("an argument")
	assert.Equal(t, []string{"an argument"}, second.identity().Args[1:])
	assert.Equal(t, fmt.Sprint(second.pid), second.identity().Variable, "it is the shell's process")
	second.isGeneration(2)
}

func TestAWrapperThatForksTheProgramIsRefused(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) {
		p.Options.Command, p.Options.CommandValue = "shell", []string{`"$0" "$@" & wait`}
	}))
	watcher := watch(first)
	err := first.failSplit()
	stranger := first.generation()
	assert.ErrorIs(t, err, ErrProtocol)
	assert.ErrorContains(t, err, "a wrapper has to exec the program")
	assert.ErrorContains(t, err, strconv.Itoa(stranger.pid))
	refused := stranger.await("init").Error
	assert.ErrorIs(t, refused, ErrEnvironment)
	assert.ErrorContains(t, refused, "a wrapper has to exec the program")
	awaitClosed(t, stranger.gone, "the stranger to end")
	first.do("change the command", "")
	watcher.unharmed()
}
