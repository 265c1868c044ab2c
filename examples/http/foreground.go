package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"syscall"

	"github.com/bhuthesh/mitosis"
)

// A service that restarts by starting its next generation is, to whoever started it, over when the first generation
// ends: a shell shows its prompt, and "go run" deletes the binary. An attendant is a process that stays instead. It
// starts the first generation in a process group of its own, and hands it one end of a socket pair, which all
// generations inherit. Through it each tells its pid when it serves. When all of them have ended, drained, stopped or
// crashed, the attendant reads the end of it; and when the attendant has died, they do, and stop.

// attendedVariable tells every generation that it has an attendant. The first finds the socket at attendantDescriptor.
const (
	attendedVariable    = "HTTP_EXAMPLE_ATTENDED"
	attendantDescriptor = 3
	attendantFile       = "attendant"
)

func isAttended() bool { return os.Getenv(attendedVariable) != "" }

// goRunPath matches where "go run" puts a program: in a temporary directory at first, and from Go 1.24 on in the
// build cache for the next time.
var goRunPath = regexp.MustCompile(`[/\\]go-build\d+[/\\]b\d+[/\\]exe[/\\][^/\\]+$|[/\\][0-9a-f]{2}[/\\][0-9a-f]{64}-d[/\\][^/\\]+$`)

func startedByGoRun() bool {
	path, err := os.Executable()
	return err == nil && goRunPath.MatchString(path)
}

// attendant is the way to the attendant. A nil one is nobody.
type attendant struct{ link *os.File }

// findAttendant returns this generation's attendant, if it has one.
func findAttendant(m *mitosis.Registry) (*attendant, error) {
	if !isAttended() {
		return nil, nil
	}
	if m.Generation() > 1 {
		link, err := m.File(attendantFile)
		return &attendant{link}, err
	}
	syscall.CloseOnExec(attendantDescriptor)
	if err := syscall.SetNonblock(attendantDescriptor, true); err != nil { // exec.Cmd has made it block
		return nil, fmt.Errorf("descriptor %d: %w", attendantDescriptor, err)
	}
	link := os.NewFile(attendantDescriptor, attendantFile)
	return &attendant{link}, m.AddFile(attendantFile, link)
}

// report tells the attendant which process serves now, and where. Pid 0 means that the service has been stopped.
func (a *attendant) report(pid int, address string) {
	if a != nil {
		say(a.link, "%d %s", pid, address)
	}
}

// watch stops this process when the attendant has died.
func (a *attendant) watch() {
	if a == nil {
		return
	}
	go func() {
		_, _ = a.link.Read(make([]byte, 1)) // the attendant says nothing
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Signal(syscall.SIGTERM)
		}
	}()
}

// report is what a generation has told its attendant.
type report struct {
	pid     int
	address string
}

func parseReport(line string) (r report, err error) {
	if n, err := fmt.Sscanf(line, "%d %s", &r.pid, &r.address); n == 0 {
		return r, fmt.Errorf("report %q: %w", line, err)
	}
	return r, nil
}

// errCrashed means that the last generation has not been stopped, but ended.
var errCrashed = errors.New("the service has ended unexpectedly")
