//go:build unix

package mitosis

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openPlannedFile opens the file of a plan; its network says how.
func openPlannedFile(s plannedSocket) (*os.File, error) {
	switch s.Network {
	case "log":
		return os.OpenFile(s.Address, os.O_CREATE|os.O_RDWR, 0o600)
	case "memory":
		return memoryFile(s.Name)
	}
	return nil, fmt.Errorf("unknown kind of file: %q", s.Network)
}

// openPlannedPipe opens or inherits both ends of a pipe, as files with its name.
func (a *application) openPlannedPipe(s plannedSocket) error {
	r, err := a.m.File(s.Name + " reader")
	if err == nil {
		w, err := a.m.File(s.Name + " writer")
		a.sockets[s.Name+" reader"], a.sockets[s.Name+" writer"] = r, w
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	a.sockets[s.Name+" reader"], a.sockets[s.Name+" writer"] = r, w
	if err := a.m.AddFile(s.Name+" reader", r); err != nil {
		return err
	}
	return a.m.AddFile(s.Name+" writer", w)
}

func init() {
	functions["write"] = func(a *application, args []string) (string, error) {
		_, err := a.socket(args[0]).(*os.File).WriteString(args[1])
		return "", err
	}
	functions["read"] = func(a *application, args []string) (string, error) {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		b := make([]byte, n)
		n, err = io.ReadFull(a.socket(args[0]).(*os.File), b)
		return string(b[:n]), err
	}
	functions["rewind"] = func(a *application, args []string) (string, error) {
		_, err := a.socket(args[0]).(*os.File).Seek(0, io.SeekStart)
		return "", err
	}
	functions["file name"] = func(a *application, args []string) (string, error) {
		return a.socket(args[0]).(*os.File).Name(), nil
	}
}

func files(sockets ...plannedSocket) plan { return plan{Sockets: sockets} }

func TestALogFileIsWrittenOnWhereTheOldGenerationStopped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(temporary(t), "log")
	first := start(t, files(plannedSocket{"log", "file", "log", path}))
	first.do("write", "log", "one\n")
	second := first.split()
	second.do("write", "log", "two\n")
	assert.Equal(t, path, second.do("file name", "log"))
	require.NoError(t, os.Rename(path, path+".1"))
	third := second.split()
	third.do("write", "log", "three\n")
	content, err := os.ReadFile(path + ".1")
	require.NoError(t, err)
	assert.Equal(t, "one\ntwo\nthree\n", string(content))
	assert.NoFileExists(t, path)
}

func TestAPipeIsInheritedWithWhatIsInIt(t *testing.T) {
	t.Parallel()
	first := start(t, files(plannedSocket{Name: "pipe", How: "pipe"}))
	first.do("write", "pipe writer", "hello")
	second := first.split()
	first.awaitEnd()
	assert.Equal(t, "hel", second.do("read", "pipe reader", "3"))
	third := second.split()
	second.awaitEnd()
	third.do("write", "pipe writer", ", world")
	assert.Equal(t, "lo, world", third.do("read", "pipe reader", "9"))
	third.do("close", "pipe writer")
	_, err := third.try("read", "pipe reader", "1")
	assert.ErrorContains(t, err, io.EOF.Error(), "nobody else holds the other end")
}

func TestAClosedFileIsNotHandedOver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(temporary(t), "log")
	first := start(t, files(plannedSocket{"log", "file", "log", path}))
	first.do("close", "log")
	first.plans(plan{})
	second := first.split()
	_, err := second.try("open", "log", "inherited file", "", "")
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestAFileThatNobodyAsksForIsClosedAtTheCommit(t *testing.T) {
	t.Parallel()
	first := start(t, files(plannedSocket{Name: "pipe", How: "pipe"}))
	first.do("write", "pipe writer", "hello")
	first.plans(plan{Sockets: []plannedSocket{{Name: "pipe reader", How: "inherited file"}}})
	second := first.split()
	first.awaitEnd()
	first.awaitLog("nobody asked for it", `"name":"pipe writer"`, `"type":"file"`)
	assert.Equal(t, "hello", second.do("read", "pipe reader", "5"))
	_, err := second.try("read", "pipe reader", "1")
	assert.ErrorContains(t, err, io.EOF.Error())
}

func TestAFileOfTheOldGenerationIsUsableAfterAFailedSplit(t *testing.T) {
	t.Parallel()
	p := files(plannedSocket{Name: "pipe", How: "pipe"})
	first := start(t, p)
	at(stepNewLoaded, "kill")(&p)
	first.plans(p)
	first.failSplit()
	first.do("write", "pipe writer", "hello")
	assert.Equal(t, "hello", first.do("read", "pipe reader", "5"))
}
