package browser

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

// program is the path of the built examples/http.
var program string

func TestMain(m *testing.M) {
	// Generations and parts of Chromium outlive their parents: they become children of this process, which reaps them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(fmt.Sprintf("PR_SET_CHILD_SUBREAPER: %v", err))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	directory, err := os.MkdirTemp("", "http-browser-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(directory)
	program = filepath.Join(directory, "http")
	if output, err := exec.Command("go", "build", "-o", program, "github.com/bhuthesh/mitosis/examples/http").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, output))
	}
	return m.Run()
}

// service is the program as a chain of processes.
type service struct {
	t       *testing.T
	serving chan generation // each that begins to serve
	ended   chan struct{}   // closed when the last process has ended
	pids    []int           // of the generations that a test has seen
}

// generation is what a process says when it begins to serve.
type generation struct {
	number, pid int
	address     string
}

var servingLine = regexp.MustCompile(`^generation (\d+), pid (\d+): serving http://([^/]+)/`)

// startService starts the program. At the end of the test it is stopped, in order.
func startService(t *testing.T) *service {
	t.Helper()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	command := exec.Command(program, "-addr", "127.0.0.1:0")
	command.Stdout, command.Stderr = writer, writer
	err = command.Start()
	writer.Close()
	require.NoError(t, err)
	waited := make(chan error, 1)
	go func() { waited <- command.Wait() }()

	s := &service{t: t, serving: make(chan generation, 100), ended: make(chan struct{}), pids: []int{command.Process.Pid}}
	var output strings.Builder // until ended
	go func() {
		defer close(s.ended)
		defer reader.Close()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			output.WriteString(lines.Text() + "\n")
			if found := servingLine.FindStringSubmatch(lines.Text()); found != nil {
				number, _ := strconv.Atoi(found[1])
				pid, _ := strconv.Atoi(found[2])
				s.serving <- generation{number, pid, found[3]}
			}
		}
	}()
	t.Cleanup(func() {
		s.stop()
		<-waited
		reapOrphans(t)
		if t.Failed() {
			t.Logf("the service's output:\n%s", output.String())
		}
	})
	return s
}

// next waits until the next generation serves.
func (s *service) next() generation {
	s.t.Helper()
	select {
	case g := <-s.serving:
		s.pids = append(s.pids, g.pid)
		return g
	case <-s.ended:
		require.FailNow(s.t, "the service has ended")
	case <-time.After(patience):
		require.FailNow(s.t, "no new generation serves")
	}
	return generation{}
}

// stop ends the service.
func (s *service) stop() {
	for len(s.serving) > 0 {
		s.next()
	}
	_ = syscall.Kill(s.pids[len(s.pids)-1], syscall.SIGTERM) // if it has gone, that shows below
	select {
	case <-s.ended:
		return
	case <-time.After(patience):
		s.t.Errorf("the service does not end")
	}
	for _, pid := range livingChildren() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.ended
}

// reapOrphans waits until no child of this process is left. Children that os/exec waits for have to be gone already.
func reapOrphans(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	context.AfterFunc(ctx, func() {
		if ctx.Err() == context.DeadlineExceeded {
			t.Errorf("processes were left behind: %v", livingChildren())
			for _, pid := range livingChildren() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil && err != syscall.EINTR {
			return // ECHILD
		}
	}
}

// livingChildren returns the pids of this process's children.
func livingChildren() []int {
	var pids []int
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		content, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
