//go:build unix

package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAProgramOfGoRunStaysInTheForegroundThroughRestarts(t *testing.T) {
	p := programByGoRun(t, "-addr", "127.0.0.1:0")
	attendant := p.attendant()
	require.Equal(t, p.command.Process.Pid, attendant)
	serving := p.generation(1)
	pids := []int{serving.pid}
	for generation := 1; generation <= 3; generation++ {
		serving = p.generation(generation)
		require.NotEqual(t, attendant, serving.pid)
		a := visitor(t, serving.address)
		require.Equal(t, answer{Generation: generation, PID: serving.pid, Hits: int64(generation)}, ignoreBody(a.visit(t)))
		a.hangUp()
		pids = append(pids, serving.pid)
		switch generation {
		case 1:
			signalTo(t, attendant, syscall.SIGHUP)
		case 2:
			// A process that is about to exit takes a signal and does nothing.
			eventually(t, "the first generation has gone", func() bool { return syscall.Kill(pids[0], 0) == syscall.ESRCH })
			signalTo(t, attendant, syscall.SIGUSR2)
		}
	}

	signalTo(t, attendant, syscall.SIGTERM)
	require.Zero(t, p.exit())
	p.end()
	for _, pid := range pids[2:] {
		hasEnded(t, pid)
	}
}

func TestCtrlCEndsAProgramOfGoRunOnceAndInOrder(t *testing.T) {
	p := programByGoRun(t, "-addr", "127.0.0.1:0")
	attendant := p.attendant()
	signalTo(t, attendant, syscall.SIGHUP)
	serving := p.generation(2)
	finish := halfRequest(t, serving.address)

	signalTo(t, -attendant, syscall.SIGINT) // what the terminal does: all of the foreground group
	// When nobody listens any more, the signal has arrived; had it come twice, the request would not be answered.
	eventually(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", serving.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	require.Equal(t, http.StatusOK, finish())
	require.Zero(t, p.exit())
	p.end()
	hasEnded(t, serving.pid)
	assert.Equal(t, 1, strings.Count(p.output(), ": stopped after"))
}

func TestStoppingAProgramOfGoRunCutsNoRequestOfAnOldGeneration(t *testing.T) {
	p := programByGoRun(t, "-addr", "127.0.0.1:0", "-drain", "1h")
	attendant := p.attendant()
	old := p.generation(1)
	finish := halfRequest(t, old.address)
	signalTo(t, attendant, syscall.SIGHUP)
	serving := p.generation(2)
	p.line(`^generation 1, pid \d+: .*draining$`)

	signalTo(t, attendant, syscall.SIGTERM)
	p.line(`^generation 2, pid \d+: stopped`)
	require.Equal(t, http.StatusOK, finish())
	require.Zero(t, p.exit())
	p.end()
	hasEnded(t, serving.pid)
}

func TestAServiceEndsWithItsAttendant(t *testing.T) {
	p := programByGoRun(t, "-addr", "127.0.0.1:0")
	attendant := p.attendant()
	old := p.generation(1)
	visitor(t, old.address).visit(t)
	signalTo(t, attendant, syscall.SIGHUP)
	serving := p.generation(2)

	signalTo(t, attendant, syscall.SIGKILL)
	p.end()
	require.NotZero(t, p.exit())
	hasEnded(t, old.pid)
	hasEnded(t, serving.pid)
}

func TestAnAttendantSaysWhenTheServiceHasCrashed(t *testing.T) {
	p := programByGoRun(t, "-addr", "127.0.0.1:0")
	attendant := p.attendant()
	signalTo(t, attendant, syscall.SIGHUP)
	serving := p.generation(2)
	p.line(`^generation 1, pid \d+: ended`)

	signalTo(t, serving.pid, syscall.SIGKILL)
	require.Equal(t, 1, p.exit())
	p.end()
	require.Contains(t, p.output(), errCrashed.Error())
}

func TestAnAttendantEndsWithAServiceThatDoesNotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	p := programByGoRun(t, "-addr", taken.Addr().String())
	require.Equal(t, 1, p.exit())
	p.end()
	require.Contains(t, p.output(), syscall.EADDRINUSE.Error())
}

// The first "go run" puts the program into a temporary directory, the second into the build cache.
func TestGoRunItselfIsRecognised(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command in PATH")
	}
	for _, which := range []string{"first", "second"} {
		t.Run(which, func(t *testing.T) {
			command := exec.Command(tool, "run", ".", "-addr", "127.0.0.1:0")
			command.Env = os.Environ()
			p := start(t, command)
			attendant := p.attendant()
			signalTo(t, attendant, syscall.SIGHUP)
			p.generation(2)
			signalTo(t, attendant, syscall.SIGTERM) // after Ctrl-C the go command's own status is 1, whatever it runs
			require.Zero(t, p.exit())
			p.end()
		})
	}
}

func TestPathsOfGoRun(t *testing.T) {
	hash := strings.Repeat("0123456789abcdef", 4)
	for path, want := range map[string]bool{
		"/tmp/go-build3141592/b001/exe/http":                        true,
		`C:\Temp\go-build3141592\b001\exe\http.exe`:                 true,
		"/home/gopher/.cache/go-build/01/" + hash + "-d/http":       true,
		"/elsewhere/01/" + hash + "-d/http":                         true,
		"/usr/local/bin/http":                                       false,
		"/home/gopher/go-build1/http":                               false,
		"/tmp/go-build3141592/b001/http.test":                       false,
		"/home/gopher/.cache/go-build/01/" + hash + "-a/http":       false,
		"/home/gopher/.cache/go-build/01/" + hash + "-d/http/other": false,
	} {
		assert.Equal(t, want, goRunPath.MatchString(path), path)
	}
}
