package mitosis

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	// The split runs on a thread of its own, which the tests get to know first, and
	// which ends with it.
	functions["split on a thread"] = func(a *application, _ []string) (string, error) {
		split := make(chan error)
		go func() {
			runtime.LockOSThread()
			a.holdThread()
			err := a.m.Split(a.ctx)
			markEnd()
			split <- err
		}()
		return "", <-split
	}
	// Init and Ready run on the first thread. What is reported is written by another.
	fates["be traced"] = func(a *application) {
		fates["be faulty"](a)
		r := &reporter{direct: a.tests, reports: make(chan json.RawMessage), written: make(chan error)}
		go r.run()
		a.tests = json.NewEncoder(r)
		runtime.LockOSThread()
		a.holdThread()
	}
}

// reporter writes what is reported.
type reporter struct {
	direct  *json.Encoder
	reports chan json.RawMessage
	written chan error
}

func (r *reporter) run() {
	for report := range r.reports {
		r.written <- r.direct.Encode(report)
	}
}

func (r *reporter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), `"serving"`) {
		markEnd()
	}
	r.reports <- b
	return len(b), <-r.written
}

func (a *application) holdThread() { a.hold(strconv.Itoa(unix.Gettid()), "thread") }

// markEnd makes a call that the library does not make, so that a trace shows where
// the split ends.
func markEnd() { unix.Getsid(0) }

// tracer is strace, attached to a process or to one of its threads.
type tracer struct {
	t       testing.TB
	command *exec.Cmd
	path    string // of its output
	out     *bufio.Reader
}

// attach attaches strace to a thread, or to a process with all its threads and
// children, and waits until it is there. It says so if that is not permitted.
func attach(t testing.TB, id string, args ...string) (*tracer, error) {
	t.Helper()
	tr := &tracer{t: t, path: filepath.Join(t.TempDir(), "trace")}
	tr.command = exec.Command("strace", append([]string{"-o", tr.path, "-p", id}, args...)...)
	stderr, err := tr.command.StderrPipe()
	require.NoError(t, err)
	if err := tr.command.Start(); err != nil {
		return nil, err
	}
	tr.out = bufio.NewReader(stderr)
	line, _ := tr.out.ReadString('\n')
	if !strings.Contains(line, "attached") {
		tr.command.Wait()
		return nil, errors.New(line)
	}
	return tr, nil
}

// mayTrace skips a test if this process may not trace others.
func mayTrace(t *testing.T) {
	t.Helper()
	sleeper := exec.Command("sleep", "60")
	require.NoError(t, sleeper.Start())
	defer sleeper.Wait()
	defer sleeper.Process.Kill()
	tr, err := attach(t, strconv.Itoa(sleeper.Process.Pid))
	if err != nil {
		t.Skipf("strace cannot be used: %v", err)
	}
	tr.detach()
}

// detach lets the process go, and returns what it has done.
func (tr *tracer) detach() string {
	tr.t.Helper()
	tr.command.Process.Signal(syscall.SIGTERM)
	for {
		if _, err := tr.out.ReadString('\n'); err != nil {
			break
		}
	}
	tr.command.Wait()
	b, err := os.ReadFile(tr.path)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(tr.t, err)
	}
	return string(b)
}

// fatalToRuntime are the calls whose failure the runtime of Go does not survive, or
// that cannot fail. Nothing that the library does could change that.
var fatalToRuntime = []string{
	"futex", "mmap", "munmap", "madvise", "epoll_pwait", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "nanosleep",
	"getrandom", "getpid", "gettid", "getppid", "tgkill", "sched_yield", "restart_syscall", "exit", "exit_group", "clone3",
}

// injectedErrors are the errors with which calls fail, as the system would let them.
var injectedErrors = map[string]string{
	"socketpair": "EMFILE", "pipe2": "ENFILE", "fcntl": "EMFILE", "epoll_ctl": "ENOSPC", "getsockopt": "ENOBUFS",
	"getsockname": "ENOBUFS", "getpeername": "ENOBUFS", "newfstatat": "EACCES", "clone": "EAGAIN",
	"write": "ENOBUFS", "pidfd_open": "EMFILE", "pidfd_send_signal": "EPERM", "waitid": "EINVAL",
	"sendmsg": "ETOOMANYREFS", "recvmsg": "ENOBUFS", "setsockopt": "ENOBUFS", "recvfrom": "ENOBUFS", "execve": "ENOMEM",
	"dup3": "EBUSY", "prlimit64": "EPERM",
}

// injectedError is that, or one that every call may return.
func injectedError(call string) string {
	if e, ok := injectedErrors[call]; ok {
		return e
	}
	return "EIO"
}

// injection is one call that fails.
type injection struct {
	inNew      bool // the new process
	everywhere bool // in any thread of the process, and in its children before exec
	call       string
	occurrence int
	line       string // of the clean trace
}

func (i injection) String() string {
	return fmt.Sprintf("%s %d, %s", i.call, i.occurrence, injectedError(i.call))
}

var tracedCall = regexp.MustCompile(`(?m)^([a-z_0-9]+)\(.*$`)

// injections returns one for each call of a trace.
func injections(trace string, inNew bool) (list []injection) {
	seen := map[string]int{}
	forked := false
	for _, found := range tracedCall.FindAllStringSubmatch(trace, -1) {
		line, call := found[0], found[1]
		if call == "getsid" {
			return list
		}
		seen[call]++
		if strings.Contains(line, "CLONE_VFORK|SIGCHLD") {
			forked = true
		} else if forked && call == "close" {
			// It has to close, or the read of package syscall that follows finds no end.
			forked = false
			continue
		}
		if slices.Contains(fatalToRuntime, call) || isWakeUp(line) || strings.HasPrefix(line, "write(2, ") || testing.Short() && seen[call] > 1 {
			continue
		}
		list = append(list, injection{inNew: inNew, call: call, occurrence: seen[call], line: line})
	}
	return nil // without an end
}

// isMeant says whether a call is the one of the clean trace. The runtime's calls
// come in between, sometimes more and sometimes fewer.
func (i injection) isMeant(line string) bool {
	kind := func(line string) string {
		_, content, _ := strings.Cut(line, ", ")
		return content[:min(4, len(content))]
	}
	return i.call != "write" || kind(line) == kind(i.line)
}

// isWakeUp says whether the runtime wakes its poller. It does not survive a failure.
func isWakeUp(line string) bool { return strings.Contains(line, `"\1\0\0\0\0\0\0\0", 8)`) }

// elsewhere are calls that other threads make, and the child before it is the new
// process.
var elsewhere = []injection{
	{everywhere: true, call: "recvmsg", occurrence: 1},
	{everywhere: true, call: "recvmsg", occurrence: 2},
	{everywhere: true, call: "recvmsg", occurrence: 3},
	{everywhere: true, call: "execve", occurrence: 1},
	{everywhere: true, call: "dup3", occurrence: 1},
	{everywhere: true, call: "dup3", occurrence: 2},
	{everywhere: true, inNew: true, call: "recvmsg", occurrence: 1},
	{everywhere: true, inNew: true, call: "recvmsg", occurrence: 2},
	{everywhere: true, inNew: true, call: "recvmsg", occurrence: 3},
	{everywhere: true, inNew: true, call: "recvmsg", occurrence: 4},
}

// perService is how many injections are tried on one service, one after another.
const perService = 5

func TestAnySystemCallMayFail(t *testing.T) {
	t.Parallel()
	mayTrace(t)
	groups := map[string][]injection{}
	for _, inNew := range []bool{false, true} {
		s := startFaultService(t)
		list := injections(s.inject(injection{inNew: inNew}).trace, inNew)
		require.NotEmpty(t, list)
		s.stop()
		for _, i := range append(list, elsewhere...) {
			if i.inNew == inNew {
				side := map[bool]string{false: "old: ", true: "new: "}[inNew]
				group := side + i.call
				for n := 2; len(groups[group]) == perService; n++ {
					group = fmt.Sprint(side, i.call, " ", n)
				}
				groups[group] = append(groups[group], i)
			}
		}
	}
	var meant int
	var injected atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d of %d calls have failed", injected.Load(), meant)
		assert.GreaterOrEqual(t, int(injected.Load()), meant*3/4)
	})
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		meant += len(groups[name])
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			injected.Add(int64(runInjections(t, groups[name])))
		})
	}
}

// runInjections tries them one after another, and returns how many calls have
// failed: a thread does not make exactly the same calls each time.
func runInjections(group *testing.T, list []injection) (injected int) {
	var s *faultService
	for _, i := range list {
		if s == nil {
			s = startFaultService(group)
		}
		var outcome injectionOutcome
		healthy := group.Run(i.String(), func(t *testing.T) {
			s.use(t)
			for _, shift := range []int{0, -1, 1, 0, -2, 2, 0, -1, 1} {
				meant := i
				meant.occurrence = max(1, i.occurrence+shift)
				outcome = s.inject(meant)
				if outcome.inRuntime {
					s = startFaultService(group) // it outlives this case
					s.use(t)
				} else if i.isMeant(outcome.line) {
					break
				}
			}
			t.Logf("%s → %s", outcome.line, outcome.result)
		})
		s.use(group)
		if outcome.line != "" {
			injected++
		}
		if !healthy || outcome.inRuntime {
			s = nil
		}
	}
	if s != nil {
		s.stop()
	}
	return injected
}

// injectionOutcome is what came of an injection.
type injectionOutcome struct {
	trace     string
	line      string // the call that failed, "" if it did not come to it
	inRuntime bool   // it was the runtime's own, and its end
	result    string // of Split
}

// injectionLimit is for what is never answered because a call has failed.
const injectionLimit = 3 * time.Second

// inject splits while a call fails, and asserts that the split does or that the old
// process serves on, with everything.
func (s *faultService) inject(i injection) (outcome injectionOutcome) {
	s.t.Helper()
	s.neighbour = dial(s.t, "tcp", s.address)
	s.greetNeighbour(s.p)
	before := s.p.inventory()
	s.goOn()
	for _, f := range s.traffic {
		f.flows(s.t)
	}
	limits := noFaultLimits
	limits.ready, limits.state, limits.commit = injectionLimit, injectionLimit, injectionLimit
	s.p.do("limits", limits.args()...)
	fate, function := "be faulty", "split on a thread"
	if i.inNew {
		fate, function = "be traced", "split"
	}
	s.p.plans(faultPlan(func(p *plan) { p.Fate, p.Join = fate, injectionLimit }))
	split := s.begin(function)
	traced := s.p
	if i.inNew {
		s.awaitChild(split, true)
		traced = split.child
	}
	thread := traced.await("thread").Text
	var args []string
	id := thread
	if i.call != "" {
		args = append(args, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", i.call, injectedError(i.call), i.occurrence))
	}
	if i.everywhere {
		id = strconv.Itoa(traced.pid)
		args = append(args, "-f")
	}
	tr, err := attach(s.t, id, args...)
	require.NoError(s.t, err)
	traced.do("release", thread)
	awaitClosed(s.t, split.done, "the end of the split")
	if split.err == nil {
		s.awaitChild(split, true)
		split.awaitServing()
	}
	outcome.trace = tr.detach()
	outcome.line, outcome.result = findLine(outcome.trace, "(INJECTED)"), string(newTakesOver)
	if outcome.inRuntime = isWakeUp(outcome.line) && !i.inNew; outcome.inRuntime {
		s.stop()
		return outcome
	}
	s.leaky, s.traced = i.call == "close", i.inNew // a close that failed has closed nothing
	if split.err == nil {
		s.takesOver(split, faultCase{})
	} else {
		outcome.result = split.err.Error()
		s.goesOn(split, before)
	}
	s.leaky, s.traced = false, false
	s.splitsAgain()
	return outcome
}
