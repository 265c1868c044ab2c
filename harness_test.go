//go:build unix

package mitosis

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bhuthesh/mitosis/internal/orphans"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The programs under test are this test binary, started again: TestMain finds a
// variable in the environment and runs an application (application_test.go) in
// place of the tests. Every process of such a program, whatever its generation,
// calls the tests back on a control connection of its own, gets its plan there,
// reports events on it and does what it is told.

// programVariable says <address of the tests>,<program>. It is inherited by the
// following generations.
const programVariable = "PROGRAM_UNDER_TEST"

// bound is how long an event may take that has to come.
const bound = 20 * time.Second

func TestMain(m *testing.M) {
	if config, ok := os.LookupEnv(programVariable); ok {
		runProgram(config)
	}
	orphans.Adopt()
	flag.Set("test.parallel", "8") // most of them wait; the command line overrides it
	code := m.Run()
	if orphans.Remain(bound) {
		fmt.Println("a process has been left behind")
		code = max(code, 1)
	}
	os.Exit(code)
}

// programs are the programs that may call back.
var programs struct {
	sync.Mutex
	listener net.Listener
	byName   map[string]*program
}

// program is a chain of generations under test.
type program struct {
	t       testing.TB
	name    string
	first   *exec.Cmd
	reaped  chan struct{} // if it is not nil: the first process is not reaped before it is closed
	exited  chan struct{} // the first process has been reaped
	started chan *generation

	mu     sync.Mutex
	next   plan // of the processes that start from now on
	over   bool // the test has ended: none may start
	all    []*generation
	output bytes.Buffer
	ended  chan struct{} // nobody holds the other end of output any more
}

// generation is one process of a program, seen from the test.
type generation struct {
	*program
	pid    int
	conn   net.Conn
	events chan event
	kept   []event
	gone   chan struct{} // all its descriptors are closed

	calls   sync.Mutex
	lastID  int
	waiting map[int]chan event
}

// event is what a process says on its control connection.
type event struct {
	ID    int           `json:",omitempty"` // of the call that it answers
	Name  string        `json:",omitempty"`
	Text  string        `json:",omitempty"`
	Error *programError `json:",omitempty"`
}

// call is what a process is told to do.
type call struct {
	ID   int
	Name string
	Args []string
}

// programError is an error of a process, with what it matched there.
type programError struct {
	Text    string
	Matches []string
}

func (e *programError) Error() string { return e.Text }

func (e *programError) Is(target error) bool {
	for _, name := range e.Matches {
		if sentinels[name] == target {
			return true
		}
	}
	return false
}

// sentinels are the errors that a process looks for in its errors.
var sentinels = func() map[string]error {
	byText := map[string]error{}
	for _, err := range []error{
		ErrNotReady, ErrTooLate, ErrSplitting, ErrSuperseded, ErrStopped, ErrClosed, ErrChildExited, ErrTimeout,
		ErrRefused, ErrProtocol, ErrVersion, ErrEnvironment, ErrTruncated, ErrNotFound, ErrNameTaken, ErrInvalidName,
		ErrNotTransferable, ErrOldDied, net.ErrClosed, os.ErrClosed, os.ErrNotExist, os.ErrPermission, io.ErrUnexpectedEOF,
		errCancelled, errMisbehaviour, syscall.ENOEXEC, errors.ErrUnsupported,
	} {
		byText[err.Error()] = err
	}
	return byText
}()

func describeError(err error) *programError {
	if err == nil {
		return nil
	}
	e := &programError{Text: err.Error()}
	for _, name := range slices.Sorted(maps.Keys(sentinels)) {
		if errors.Is(err, sentinels[name]) {
			e.Matches = append(e.Matches, name)
		}
	}
	return e
}

// newProgram lets processes that are told of it call back.
func newProgram(t testing.TB, p plan) *program {
	programs.Lock()
	defer programs.Unlock()
	if programs.listener == nil {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		programs.listener, programs.byName = listener, map[string]*program{}
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go welcome(c)
			}
		}()
	}
	g := &program{
		t: t, name: strconv.Itoa(len(programs.byName) + 1), next: p,
		started: make(chan *generation, 1024), exited: make(chan struct{}), ended: make(chan struct{}),
	}
	programs.byName[g.name] = g
	return g
}

// variable is the one that makes a process part of the program.
func (g *program) variable() string {
	return programVariable + "=" + programs.listener.Addr().String() + "," + g.name
}

// welcome takes the call of a new process and sends it its plan.
func welcome(c net.Conn) {
	in := json.NewDecoder(bufio.NewReader(c))
	var hello struct {
		Program string
		Pid     int
	}
	if in.Decode(&hello) != nil {
		c.Close()
		return
	}
	programs.Lock()
	g := programs.byName[hello.Program]
	programs.Unlock()
	p := &generation{
		program: g, pid: hello.Pid, conn: c,
		events: make(chan event, 4096), gone: make(chan struct{}), waiting: map[int]chan event{},
	}
	g.mu.Lock()
	next, over := g.next, g.over
	g.all = append(g.all, p)
	g.mu.Unlock()
	if over {
		c.Close() // it was started by one that has been killed since, and exits
		return
	}
	json.NewEncoder(c).Encode(next)
	g.started <- p
	defer close(p.gone)
	defer c.Close()
	for {
		var e event
		if in.Decode(&e) != nil {
			return
		}
		if e.ID == 0 {
			p.events <- e
			continue
		}
		p.calls.Lock()
		answered := p.waiting[e.ID]
		delete(p.waiting, e.ID)
		p.calls.Unlock()
		answered <- e
	}
}

// start starts a program and returns its first generation, which serves.
func start(t testing.TB, p plan, change ...func(*exec.Cmd)) *generation {
	t.Helper()
	g := newProgram(t, p)
	g.launch(change...)
	first := g.generation()
	first.await("serving")
	return first
}

// launch starts the first process.
func (g *program) launch(change ...func(*exec.Cmd)) {
	g.t.Helper()
	executable, err := os.Executable()
	require.NoError(g.t, err)
	g.first = exec.Command(executable)
	// The race detector's processes would sleep for a second at their end.
	g.first.Env = append(os.Environ(), g.variable(), "GORACE=atexit_sleep_ms=0")
	r, w, err := os.Pipe()
	require.NoError(g.t, err)
	g.first.Stdout, g.first.Stderr = w, w
	for _, f := range change {
		f(g.first)
	}
	require.NoError(g.t, g.first.Start())
	w.Close()
	go func() {
		defer close(g.ended)
		defer r.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := r.Read(b)
			g.mu.Lock()
			g.output.Write(b[:n])
			g.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		if g.reaped != nil {
			<-g.reaped
		}
		g.first.Wait()
		close(g.exited)
	}()
	g.t.Cleanup(g.end)
}

// end kills what is left of the program and asserts that nothing is.
func (g *program) end() {
	g.t.Helper()
	g.mu.Lock()
	g.over = true
	all := slices.Clone(g.all)
	g.mu.Unlock()
	for _, p := range all {
		p.kill()
	}
	if len(all) == 0 {
		g.first.Process.Kill()
	}
	awaitClosed(g.t, g.exited, "the first process to end")
	for _, p := range all {
		awaitClosed(g.t, p.gone, fmt.Sprintf("process %d to end", p.pid))
		p.reap()
	}
	awaitClosed(g.t, g.ended, "the last process of the program to end")
	output := g.log()
	if strings.Contains(output, "WARNING: DATA RACE") {
		g.t.Error("data race in a process of the program")
	}
	if g.t.Failed() {
		g.t.Logf("output of the program:\n%s", output)
	}
}

// reap takes the exit status of an orphan, which has become a child of the tests.
func (p *generation) reap() {
	if p.pid != p.first.Process.Pid {
		for {
			if _, err := unix.Wait4(p.pid, nil, 0, nil); err != unix.EINTR {
				return
			}
		}
	}
}

// kill kills the process, if it lives.
func (p *generation) kill() {
	select {
	case <-p.gone: // the number may be another's by now
	default:
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// signal sends a signal to the process.
func (p *generation) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, syscall.Kill(p.pid, s))
}

// goOn lets a process go on that has stopped itself, or is about to.
func (p *generation) goOn() {
	p.t.Helper()
	continued := make(chan struct{})
	go func() {
		for {
			select {
			case <-continued:
				return
			case <-time.After(5 * time.Millisecond):
				syscall.Kill(p.pid, syscall.SIGCONT)
			}
		}
	}()
	defer close(continued)
	p.await("continued")
}

// awaitClosed waits for an event that has to come.
func awaitClosed(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(bound):
		require.FailNow(t, "waited in vain for "+what)
	}
}

// plans says what the processes do that start from now on.
func (g *program) plans(p plan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = p
}

// log returns what the program has written so far: its log records and last words.
func (g *program) log() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.output.String()
}

// awaitLog waits until one line of the log has all of the parts.
func (g *program) awaitLog(parts ...string) string {
	g.t.Helper()
	var found string
	require.Eventually(g.t, func() bool {
		found = findLine(g.log(), parts...)
		return found != ""
	}, bound, 2*time.Millisecond, "no line of the log has %q", parts)
	return found
}

func findLine(text string, parts ...string) string {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			return line
		}
	}
	return ""
}

// generation returns the next process of the program that calls back.
func (g *program) generation() *generation {
	g.t.Helper()
	select {
	case p := <-g.started:
		return p
	case <-time.After(bound):
		require.FailNow(g.t, "no new process has called back")
		return nil
	}
}

// await waits for an event of that name and returns it.
func (p *generation) await(name string) event {
	p.t.Helper()
	for i, e := range p.kept {
		if e.Name == name {
			p.kept = slices.Delete(p.kept, i, i+1)
			return e
		}
	}
	take := func(e event) bool {
		if e.Name != name {
			p.kept = append(p.kept, e)
		}
		return e.Name == name
	}
	expired := time.After(bound)
	for {
		select {
		case e := <-p.events:
			if take(e) {
				return e
			}
			continue
		default:
		}
		select {
		case e := <-p.events:
			if take(e) {
				return e
			}
		case <-p.gone:
			if len(p.events) == 0 {
				require.FailNow(p.t, fmt.Sprintf("process %d ended before %q; it said %+v", p.pid, name, p.kept))
			}
		case <-expired:
			require.FailNow(p.t, fmt.Sprintf("process %d did not report %q in time; it said %+v", p.pid, name, p.kept))
		}
	}
}

// begin calls a function of the process and returns where the answer will be.
func (p *generation) begin(name string, args ...string) <-chan event {
	answered := make(chan event, 1)
	p.calls.Lock()
	defer p.calls.Unlock()
	p.lastID++
	p.waiting[p.lastID] = answered
	json.NewEncoder(p.conn).Encode(call{p.lastID, name, args})
	return answered
}

// answer waits for the answer to a call.
func (p *generation) answer(answered <-chan event) (string, error) {
	p.t.Helper()
	var e event
	select {
	case e = <-answered:
	case <-p.gone:
		select {
		case e = <-answered: // its last words
		default:
			require.FailNow(p.t, fmt.Sprintf("process %d ended instead of answering", p.pid))
		}
	case <-time.After(bound):
		require.FailNow(p.t, fmt.Sprintf("process %d did not answer in time", p.pid))
	}
	if e.Error != nil {
		return e.Text, e.Error
	}
	return e.Text, nil
}

// try calls a function of the process.
func (p *generation) try(name string, args ...string) (string, error) {
	p.t.Helper()
	return p.answer(p.begin(name, args...))
}

// do calls a function of the process that has to succeed.
func (p *generation) do(name string, args ...string) string {
	p.t.Helper()
	text, err := p.try(name, args...)
	require.NoError(p.t, err, "%s %v", name, args)
	return text
}

// split splits, and returns the next generation when both say that it serves.
func (p *generation) split(args ...string) *generation {
	p.t.Helper()
	answered := p.begin("split", args...)
	next := p.generation()
	_, err := p.answer(answered)
	require.NoError(p.t, err)
	next.await("serving")
	return next
}

// failSplit lets a split fail and returns its error. The process serves on.
func (p *generation) failSplit() error {
	p.t.Helper()
	_, err := p.try("split")
	require.Error(p.t, err)
	return err
}

// awaitEnd waits until the process has ended, and its parent, or the tests, have
// taken its exit status.
func (p *generation) awaitEnd() {
	p.t.Helper()
	awaitClosed(p.t, p.gone, fmt.Sprintf("process %d to end", p.pid))
	if p.pid == p.first.Process.Pid {
		awaitClosed(p.t, p.exited, "the first process to be reaped")
	}
	p.reap()
}
