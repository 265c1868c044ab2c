//go:build unix

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bhuthesh/mitosis/internal/orphans"
	"github.com/stretchr/testify/require"
)

// serviceVariable makes the test binary the program, so that -race looks at it too.
const serviceVariable = "HTTP_EXAMPLE_TEST_SERVICE"

// patience is how long a test waits for what has to happen.
const patience = 15 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(serviceVariable) != "" {
		main()
		return
	}
	orphans.Adopt()
	os.Exit(m.Run())
}

// process is the program as a process, with all generations that it starts.
type process struct {
	t       *testing.T
	command *exec.Cmd
	status  chan error // of the first process

	mu      sync.Mutex
	changed sync.Cond
	lines   []string // of all processes' output
	ended   bool     // the last process has closed it
}

// program starts the test binary as the program.
func program(t *testing.T, arguments ...string) *process {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	return programAt(t, path, arguments...)
}

// programByGoRun starts it from where "go run" would.
func programByGoRun(t *testing.T, arguments ...string) *process {
	t.Helper()
	path := filepath.Join(t.TempDir(), "go-build1", "b001", "exe", "http")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	executable, err := os.Executable()
	require.NoError(t, err)
	if os.Link(executable, path) != nil { // another file system
		source, err := os.Open(executable)
		require.NoError(t, err)
		defer source.Close()
		destination, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
		require.NoError(t, err)
		_, err = io.Copy(destination, source)
		require.NoError(t, err)
		require.NoError(t, destination.Close())
	}
	return programAt(t, path, arguments...)
}

func programAt(t *testing.T, path string, arguments ...string) *process {
	t.Helper()
	command := exec.Command(path, arguments...)
	command.Env = append(os.Environ(), serviceVariable+"=1", "GORACE=atexit_sleep_ms=0")
	return start(t, command)
}

// start starts a command in a process group of its own, as a shell does.
func start(t *testing.T, command *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, command: command, status: make(chan error, 1)}
	p.changed.L = &p.mu
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	command.Stdout, command.Stderr = writer, writer
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = command.Start()
	writer.Close()
	require.NoError(t, err)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		p.status <- command.Wait()
	}()
	go p.read(reader)
	t.Cleanup(func() {
		p.killRest()
		<-waited
		reapOrphans(t)
		if t.Failed() {
			t.Logf("output of %s:\n%s", command, p.output())
		}
	})
	return p
}

func (p *process) read(reader *os.File) {
	defer reader.Close()
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		p.change(func() { p.lines = append(p.lines, lines.Text()) })
	}
	p.change(func() { p.ended = true })
}

func (p *process) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.changed.Broadcast()
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

var pidInOutput = regexp.MustCompile(`\bpid[ =](\d+)`)

// killRest kills what a test has left behind, which is nothing unless it failed.
func (p *process) killRest() {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended {
		return
	}
	p.t.Errorf("processes were left behind by %s", p.command)
	_ = p.command.Process.Kill()
	for _, match := range pidInOutput.FindAllStringSubmatch(p.output(), -1) {
		if pid, err := strconv.Atoi(match[1]); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	p.await("the end", func() bool { return p.ended })
}

// await waits until condition holds, which is asked after each line and with the lock held.
func (p *process) await(what string, condition func() bool) {
	p.t.Helper()
	expired := false
	timer := time.AfterFunc(patience, func() { p.change(func() { expired = true }) })
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !condition() {
		if expired {
			require.FailNow(p.t, "waited in vain for "+what, strings.Join(p.lines, "\n"))
		}
		p.changed.Wait()
	}
}

// line waits for a line of the output, and returns what the pattern captures.
func (p *process) line(pattern string) []string {
	p.t.Helper()
	expression := regexp.MustCompile(pattern)
	var found []string
	p.await("a line with "+pattern, func() bool {
		for _, line := range p.lines {
			if found = expression.FindStringSubmatch(line); found != nil {
				return true
			}
		}
		if p.ended {
			require.FailNow(p.t, "the output has ended without "+pattern, strings.Join(p.lines, "\n"))
		}
		return false
	})
	return found
}

// generation waits until a generation serves.
func (p *process) generation(n int) report {
	p.t.Helper()
	found := p.line(`^generation ` + strconv.Itoa(n) + `, pid (\d+): serving http://([^/]+)/`)
	return report{pid: number(p.t, found[1]), address: found[2]}
}

// attendant waits until an attendant stays in the foreground, and returns its pid.
func (p *process) attendant() int {
	p.t.Helper()
	return number(p.t, p.line(`^pid (\d+) stays in the foreground`)[1])
}

// exit waits for the end of the first process, and returns its exit status.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case err := <-p.status:
		p.status <- err
		return p.command.ProcessState.ExitCode()
	case <-time.After(patience):
		require.FailNow(p.t, "the process does not end", p.output())
		return -1
	}
}

// end waits until the last process has ended.
func (p *process) end() {
	p.t.Helper()
	p.await("the end of all processes", func() bool { return p.ended })
}

func signalTo(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, signal), "%v to %d", signal, pid)
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}
