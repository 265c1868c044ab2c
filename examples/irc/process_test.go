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
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/internal/orphans"
)

const (
	botVariable     = "IRC_TEST_BOT"     // makes the test binary a bot
	failureVariable = "IRC_TEST_FAILURE" // a file that says how the next process fails; it is removed then
)

// The ways in which a new process fails.
const (
	exitsWithThree = "exits with 3"
	exitsWithZero  = "exits with 0"
	panics         = "panics"
	isKilled       = "is killed"
	hasBadFlags    = "has bad flags"
	exitsAfterInit = "exits after Init"
)

func TestMain(m *testing.M) {
	if os.Getenv(botVariable) == "" {
		orphans.Adopt()
		os.Exit(m.Run())
	}
	failIfTold()
	main()
}

func failIfTold() {
	file := os.Getenv(failureVariable)
	how, err := os.ReadFile(file)
	if err != nil {
		return
	}
	if err := os.Remove(file); err != nil {
		panic(err)
	}
	switch string(how) {
	case exitsWithThree:
		os.Exit(3)
	case exitsWithZero:
		os.Exit(0)
	case panics:
		panic("as told")
	case isKilled:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case hasBadFlags:
		os.Args = append(os.Args, "-no-such-flag")
	case exitsAfterInit:
		_, _ = mitosis.Init(mitosis.Options{})
		os.Exit(3)
	}
}

// A botProcess is a bot in processes of its own: one at first, then its next generations.
type botProcess struct {
	t       *testing.T
	pidFile string
	failure string
	first   *exec.Cmd
	log     *journal[string] // standard error of all generations; it ends with the last process
	read    int              // how much of the log has been waited for
}

// startBot starts the first generation.
func startBot(t *testing.T, server string, arguments ...string) *botProcess {
	t.Helper()
	dir := t.TempDir()
	p := &botProcess{
		t: t, pidFile: filepath.Join(dir, "bot.pid"), failure: filepath.Join(dir, "failure"), log: newJournal[string](),
	}
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.Command(program, append([]string{
		"-server", server, "-nick", "robot", "-channels", "#test", "-penalty", "0", "-pidfile", p.pidFile,
		"-reconnect", "50ms", "-rejoin", "50ms", "-regain", "100ms",
	}, arguments...)...)
	command.Env = append(os.Environ(), botVariable+"=1", failureVariable+"="+p.failure, "GORACE=atexit_sleep_ms=0")
	command.Stderr = writer
	command.Stdout = writer
	require.NoError(t, command.Start())
	require.NoError(t, writer.Close())
	p.first = command
	go func() {
		defer reader.Close()
		defer p.log.end()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			p.log.add(lines.Text())
		}
	}()
	t.Cleanup(p.cleanUp)
	p.awaitLog("INFO ready ")
	return p
}

var (
	numberOfChild      = regexp.MustCompile(`\bchild=(\d+)`)
	numberOfGeneration = regexp.MustCompile(`INFO ready generation=\d+ process=(\d+)`)
)

// numbers returns the process numbers that a pattern finds in the log.
func (p *botProcess) numbers(pattern *regexp.Regexp) (pids []int) {
	for _, line := range p.log.all() {
		if match := pattern.FindStringSubmatch(line); match != nil {
			pid, err := strconv.Atoi(match[1])
			require.NoError(p.t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// cleanUp stops the bot, if the test has not done so, and checks that every generation has ended well.
func (p *botProcess) cleanUp() {
	defer func() {
		if p.t.Failed() {
			p.t.Log("the bot's log:\n" + strings.Join(p.log.all(), "\n"))
		}
	}()
	if !p.t.Failed() && !p.log.hasEnded() {
		p.signal(syscall.SIGTERM)
		p.log.find(0, patience, func(string) bool { return false })
	}
	if !assert.True(p.t, p.log.hasEnded(), "the bot has not ended") {
		for _, pid := range append(p.numbers(numberOfChild), p.first.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		p.log.awaitEnd(p.t, "the end of the bot")
	}
	assert.NoFileExists(p.t, p.pidFile)
	assert.NoError(p.t, p.first.Wait(), "generation 1")
	if !orphans.Adopted {
		return
	}
	for i, pid := range p.numbers(numberOfGeneration)[1:] {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err == syscall.ECHILD {
			continue // the generation before it was still there, and has seen it end
		}
		assert.NoError(p.t, err)
		assert.Zero(p.t, status, "generation %d, process %d", i+2, pid)
	}
}

// awaitLog waits for the next line of the log that contains part.
func (p *botProcess) awaitLog(part string) string {
	p.t.Helper()
	line, next := p.log.await(p.t, "log line with "+part, p.read, func(line string) bool {
		return strings.Contains(line, part)
	})
	p.read = next
	return line
}

// pid reads the PID file.
func (p *botProcess) pid() int {
	p.t.Helper()
	content, err := os.ReadFile(p.pidFile)
	require.NoError(p.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(p.t, err)
	return pid
}

func (p *botProcess) signal(signal syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, syscall.Kill(p.pid(), signal))
}

// split sends SIGHUP and waits until the next generation has taken over.
func (p *botProcess) split() {
	p.t.Helper()
	p.signal(syscall.SIGHUP)
	p.awaitLog("INFO ready ")
}

// failSplit sends SIGHUP and waits until the split has failed.
func (p *botProcess) failSplit(how string) {
	p.t.Helper()
	p.failNext(how)
	p.signal(syscall.SIGHUP)
	p.awaitLog("split failed, serving on")
	assert.NoFileExists(p.t, p.failure, "the new process has not come far enough to fail")
}

// failNext makes the next process fail.
func (p *botProcess) failNext(how string) {
	p.t.Helper()
	temporary := p.failure + ".new"
	require.NoError(p.t, os.WriteFile(temporary, []byte(how), 0o600))
	require.NoError(p.t, os.Rename(temporary, p.failure))
}

// stop sends SIGTERM and waits until no process of the bot is left.
func (p *botProcess) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.log.awaitEnd(p.t, "the end of the bot")
}
