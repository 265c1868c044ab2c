//go:build unix

package main

import (
	"bufio"
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

// serverVariable makes the test binary the program, so that -race looks at it, too.
const serverVariable = "CHAT_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverVariable) != "" {
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
	p.command.Env = append(os.Environ(), serverVariable+"=1", "GORACE=atexit_sleep_ms=0")
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
		if expired || p.ended {
			require.FailNow(p.t, "waited in vain for "+what)
		}
		p.changed.Wait()
	}
}

// awaitGeneration waits until a generation serves.
func (p *process) awaitGeneration(n int) {
	p.t.Helper()
	expression := regexp.MustCompile(`^generation ` + strconv.Itoa(n) + `, pid (\d+): serving on (\S+),`)
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

// split sends SIGHUP to the process that the PID file names, and waits until the next generation serves and the old one
// has ended well.
func (p *process) split() {
	p.t.Helper()
	content, err := os.ReadFile(p.pidFile)
	require.NoError(p.t, err)
	require.Equal(p.t, strconv.Itoa(p.pids[len(p.pids)-1]), strings.TrimSpace(string(content)))
	require.NoError(p.t, syscall.Kill(p.pids[len(p.pids)-1], syscall.SIGHUP))
	p.awaitGeneration(len(p.pids) + 1)
	p.reapNext()
}

// reapNext waits for the end of the oldest generation.
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
}

// stop sends SIGTERM and waits until no process is left.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, syscall.Kill(p.pids[len(p.pids)-1], syscall.SIGTERM))
	p.reapNext()
	p.await("the end of all output", func() bool { return p.ended })
	require.NoFileExists(p.t, p.pidFile)
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

func TestACrowdStaysConnectedAndHearsAllThroughTenRestarts(t *testing.T) {
	const splits = 10
	began := time.Now()
	p := startProcess(t, "-limit", strconv.Itoa(64<<20))
	people := newCrowd(t, p.address, crowdSize)
	slow := newSlowPerson(t, p.address).named("slow", "attic")
	anna := newPerson(t, p.address).named("anna", "attic")
	slow.hears("* anna has joined attic")
	connected := time.Now()

	people.pause = time.Second // in between there is time for the others
	people.begin(1)
	said, slowest := 0, time.Duration(0)
	for range splits {
		heard := people.heard.Load()
		for range 400 { // more than what the kernel keeps for the slow one, in the end
			anna.say(numbered(said))
			said++
		}
		before := time.Now()
		p.split()
		slowest = max(slowest, time.Since(before))
		require.Eventually(t, func() bool { return people.heard.Load() > heard+crowdSize }, patience, time.Millisecond)
	}
	people.end(t)
	for _, p := range []*person{anna, slow} { // they have heard nothing until now
		for i := range said {
			p.hears("<anna> " + numbered(i))
		}
	}
	anna.say("/generation")
	anna.hears("* generation 11")
	t.Logf("%d clients connected in %v; %d lines heard in %v with %d restarts, the slowest in %v",
		crowdSize+2, connected.Sub(began), people.heard.Load(), time.Since(connected), splits, slowest)

	people.leave(t)
	slow.say("/quit")
	slow.hears("* goodbye")
	anna.say("/quit")
	anna.awaits("* goodbye")
	require.NoError(t, slow.Close())
	require.NoError(t, anna.Close())
	p.stop()
}

func TestASignalStopsTheServerWithAMessage(t *testing.T) {
	p := startProcess(t)
	anna := newPerson(t, p.address)
	anna.awaits("* guest1 has joined lobby")
	require.NoError(t, syscall.Kill(p.pids[0], syscall.SIGTERM))
	anna.hears("* goodbye: the server stops")
	anna.isSentAway()
	require.NoError(t, anna.Close())
	p.reapNext()
	p.await("the end of all output", func() bool { return p.ended })
}

func TestABadFlagIsRefused(t *testing.T) {
	path, err := os.Executable()
	require.NoError(t, err)
	for _, arguments := range []string{"-limit=0", "-history=-1", "-no-such-flag", "word"} {
		command := exec.Command(path, arguments)
		command.Env = append(os.Environ(), serverVariable+"=1", "GORACE=atexit_sleep_ms=0")
		output, err := command.CombinedOutput()
		require.Error(t, err)
		require.Equal(t, 2, command.ProcessState.ExitCode(), "%s: %s", arguments, output)
	}
}
