//go:build unix

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bhuthesh/mitosis/internal/orphans"
	"github.com/stretchr/testify/require"
)

const (
	// programVariable makes the test binary the program, so that -race looks at it, too.
	programVariable = "WEBSOCKET_TEST_PROGRAM"

	// patience is how long a test waits for what has to happen.
	patience = 20 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
		return
	}
	orphans.Adopt()
	os.Exit(m.Run())
}

// A process is the program as a process, with all generations that it starts.
type process struct {
	t       *testing.T
	pidFile string
	command *exec.Cmd // of the first one
	address string
	pids    []int // by generation
	reaped  int

	mu      sync.Mutex
	changed sync.Cond
	lines   []string // of all generations' output
	ended   bool     // the last one has closed it
}

func startProcess(t *testing.T, arguments ...string) *process {
	t.Helper()
	p := &process{t: t, pidFile: filepath.Join(t.TempDir(), "pid")}
	p.changed.L = &p.mu
	path, err := os.Executable()
	require.NoError(t, err)
	p.command = exec.Command(path, append([]string{"-addr", "127.0.0.1:0", "-pidfile", p.pidFile}, arguments...)...)
	p.command.Env = append(os.Environ(), programVariable+"=1", "GORACE=atexit_sleep_ms=0")
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	p.command.Stdout, p.command.Stderr = writer, writer
	err = p.command.Start()
	writer.Close()
	require.NoError(t, err)
	go p.read(reader)
	t.Cleanup(p.cleanUp)
	p.awaitGeneration(1)
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

// await waits until condition holds, which is asked after each line and with the lock held.
func (p *process) await(what string, condition func() bool) {
	p.t.Helper()
	expired := false
	timer := time.AfterFunc(patience, func() { p.change(func() { expired = true }) })
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !condition() {
		if expired || p.ended { // nothing comes any more
			require.FailNow(p.t, "waited in vain for "+what)
		}
		p.changed.Wait()
	}
}

// awaitGeneration waits until a generation serves.
func (p *process) awaitGeneration(n int) {
	p.t.Helper()
	expression := regexp.MustCompile(`^generation ` + strconv.Itoa(n) + `, pid (\d+): serving http://(\S+)/`)
	p.await("generation "+strconv.Itoa(n), func() bool {
		for _, line := range p.lines {
			if found := expression.FindStringSubmatch(line); found != nil {
				pid, err := strconv.Atoi(found[1])
				require.NoError(p.t, err)
				p.pids, p.address = append(p.pids, pid), found[2]
				return true
			}
		}
		return false
	})
}

// signal sends a signal to the process that serves.
func (p *process) signal(signal syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, syscall.Kill(p.pids[len(p.pids)-1], signal))
}

// restart waits until the next generation serves. The old one may still drain.
func (p *process) restart() {
	p.t.Helper()
	p.signal(syscall.SIGHUP)
	p.awaitGeneration(len(p.pids) + 1)
}

// reapNext waits for the end of the oldest generation, and wants it to be a good one.
func (p *process) reapNext() {
	p.t.Helper()
	if p.reaped == 0 {
		exited := make(chan error, 1)
		go func() { exited <- p.command.Wait() }()
		select {
		case err := <-exited:
			require.NoError(p.t, err)
		case <-time.After(patience):
			require.FailNow(p.t, "generation 1 does not end")
		}
	} else {
		reap(p.t, p.pids[p.reaped])
	}
	p.reaped++
	line := "generation " + strconv.Itoa(p.reaped) + ", pid " + strconv.Itoa(p.pids[p.reaped-1]) + ": ended"
	p.await(line, func() bool { return slices.Contains(p.lines, line) })
}

// awaitEnd waits until no process is left.
func (p *process) awaitEnd() {
	p.t.Helper()
	for p.reaped < len(p.pids) {
		p.reapNext()
	}
	p.await("the end of all output", func() bool { return p.ended })
	require.NoFileExists(p.t, p.pidFile)
}

func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.awaitEnd()
}

var childInOutput = regexp.MustCompile(`\b(?:pid|child)[ =](\d+)`)

// cleanUp kills what a test has left behind, which is nothing unless it failed.
func (p *process) cleanUp() {
	p.mu.Lock()
	output, ended := strings.Join(p.lines, "\n"), p.ended
	p.mu.Unlock()
	if p.t.Failed() {
		p.t.Logf("output:\n%s", output)
	}
	if ended {
		return
	}
	p.t.Errorf("processes were left behind")
	if p.reaped == 0 {
		_ = p.command.Process.Kill()
		_ = p.command.Wait()
	}
	for _, match := range childInOutput.FindAllStringSubmatch(output, -1) {
		if pid, err := strconv.Atoi(match[1]); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
