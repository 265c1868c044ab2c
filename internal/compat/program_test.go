//go:build unix

package compat

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bhuthesh/mitosis/internal/orphans"
	"github.com/stretchr/testify/require"
)

// bound is how long an event may take that has to come.
const bound = 30 * time.Second

func TestMain(m *testing.M) {
	orphans.Adopt()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if workplace, err = os.MkdirTemp("", "compat"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(workplace)
	return m.Run()
}

// program is a chain of generations of the service.
type program struct {
	t           *testing.T
	directory   string
	generations chan generation
	ended       chan struct{} // nobody holds the other end of its output any more

	mu  sync.Mutex
	all []generation
	log bytes.Buffer
}

// generation is what a process of the service says when it serves.
type generation struct {
	Generation, Pid    int
	Version            string
	Web, Short, Packet string
}

// outcome is what a split came to.
type outcome struct {
	Error                              string
	Refused, Exited, Version, Protocol bool
}

// state is what the service keeps.
type state struct {
	Lines    map[string]int
	History  []string
	Blob     bool
	BlobSize int
	Streamed int64
}

// start starts the service with that version of the library.
func start(t *testing.T, version string) (*program, generation) {
	t.Helper()
	directory, err := os.MkdirTemp("", "compat") // that of the test would be too long for a socket
	require.NoError(t, err)
	p := &program{t: t, directory: directory, generations: make(chan generation, 16), ended: make(chan struct{})}
	p.install(version)
	cmd := exec.Command(filepath.Join(directory, "service"), directory)
	stdout, stdoutOfProgram, err := os.Pipe()
	require.NoError(t, err)
	stderr, stderrOfProgram, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = stdoutOfProgram, stderrOfProgram
	require.NoError(t, cmd.Start())
	stdoutOfProgram.Close()
	stderrOfProgram.Close()
	go p.readGenerations(stdout)
	go p.readLog(stderr)
	t.Cleanup(func() {
		p.end(cmd)
		os.RemoveAll(directory)
	})
	return p, p.next(version, 1)
}

// install swaps the symbolic link by which the service is started.
func (p *program) install(version string) {
	p.t.Helper()
	link := filepath.Join(p.directory, "service")
	require.NoError(p.t, os.Symlink(service(p.t, version), link+".new"))
	require.NoError(p.t, os.Rename(link+".new", link))
}

func (p *program) readGenerations(r *os.File) {
	defer r.Close()
	in := json.NewDecoder(r)
	for {
		var g generation
		if in.Decode(&g) != nil {
			return
		}
		p.mu.Lock()
		p.all = append(p.all, g)
		p.mu.Unlock()
		p.generations <- g
	}
}

func (p *program) readLog(r *os.File) {
	defer close(p.ended)
	defer r.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		p.mu.Lock()
		p.log.Write(b[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// end stops the last generation, which ends as it should, as all before it have.
func (p *program) end(first *exec.Cmd) {
	p.t.Helper()
	p.mu.Lock()
	all := p.all
	p.mu.Unlock()
	if len(all) > 0 {
		syscall.Kill(all[len(all)-1].Pid, syscall.SIGTERM)
	}
	select {
	case <-p.ended:
	case <-time.After(bound):
		p.t.Error("the service does not end")
		for _, g := range all {
			syscall.Kill(g.Pid, syscall.SIGKILL)
		}
	}
	if err := first.Wait(); err != nil {
		p.t.Errorf("the first generation: %v", err)
	}
	for i, g := range all {
		if i > 0 && orphans.Adopted {
			syscall.Wait4(g.Pid, nil, 0, nil) // unless its parent has lived long enough to do it
		}
	}
	if n := strings.Count(p.output(), "\nended: "); n != len(all) {
		p.t.Errorf("%d of %d generations have ended as they should", n, len(all))
	}
	if p.t.Failed() {
		p.t.Log(p.output())
	}
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// awaitOutput waits until text has been written so many times.
func (p *program) awaitOutput(text string, times int) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		return strings.Count(p.output(), text) >= times
	}, bound, 2*time.Millisecond, "%q", text)
}

// next waits until the next generation serves.
func (p *program) next(version string, n int) generation {
	p.t.Helper()
	select {
	case g := <-p.generations:
		require.Equal(p.t, version, g.Version)
		require.Equal(p.t, n, g.Generation)
		return g
	case <-p.ended:
		require.FailNow(p.t, "the service has ended")
	case <-time.After(bound):
		require.FailNow(p.t, "the next generation does not serve")
	}
	return generation{}
}

// tell tells the service something and decodes its answer.
func (p *program) tell(command string, answer any) {
	p.t.Helper()
	c, err := net.DialTimeout("unix", filepath.Join(p.directory, "control"), bound)
	require.NoError(p.t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(bound))
	_, err = c.Write([]byte(command + "\n"))
	require.NoError(p.t, err)
	require.NoError(p.t, json.NewDecoder(bufio.NewReader(c)).Decode(answer))
}

// split hands over to another version.
func (p *program) split(version string, n int) generation {
	p.t.Helper()
	p.install(version)
	var o outcome
	p.tell("split", &o)
	require.Empty(p.t, o.Error)
	return p.next(version, n)
}

// failSplit lets a split fail, whose new process has that fate, and returns how.
func (p *program) failSplit(version, fate string) outcome {
	p.t.Helper()
	p.install(version)
	path := filepath.Join(p.directory, "fate")
	require.NoError(p.t, os.WriteFile(path, []byte(fate), 0o644))
	var o outcome
	p.tell("split", &o)
	require.NotEmpty(p.t, o.Error)
	require.NoError(p.t, os.Remove(path))
	return o
}

// state asks the service for its state.
func (p *program) state() (s state) {
	p.t.Helper()
	p.tell("state", &s)
	return s
}

// journal is what all generations have written into the file that they share.
func (p *program) journal() []string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.directory, "journal"))
	require.NoError(p.t, err)
	return strings.Fields(string(b))
}
