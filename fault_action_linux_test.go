package mitosis

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// What a process does to itself at a step. The plan names the actions, joined by
// commas; those that are not known here are application.step's.
var faultActions = map[string]func(a *application){
	"exit 0":    func(*application) { os.Exit(0) },
	"garbage":   func(*application) { writeToLink([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), nil) },
	"nonsense":  func(*application) { writeToLink(faultFrame(wire.Hello, 0, 2, "hi"), nil) },
	"half":      func(*application) { writeToLink(faultFrame(wire.Data, 0, wire.MaxPayload, "the beginning"), nil) },
	"close":     func(*application) { unix.Shutdown(linkDescriptor(), unix.SHUT_RDWR) },
	"surplus":   func(*application) { writeToLink(faultFrame(wire.Optional|0x7f, 0, 0, ""), []int{0, 1, 2}) },
	"unknown":   func(*application) { writeToLink(faultFrame(wire.Optional|0x7f, 3, 4, "next"), []int{0, 1, 2}) },
	"no more":   func(*application) { limitDescriptors(lowestFree()) },
	"no pipes":  func(*application) { openPipe = func() (r, w *os.File, err error) { return nil, nil, syscall.ENFILE } },
	"slow down": func(*application) { faulty.slow.Store(true) },
}

// faulty is what the process under test knows of its faults.
var faulty struct {
	theirs    int // the other end of the link, while it is in this process
	interpose bool
	slow      atomic.Bool
	limit     uint64 // of descriptors, as it was
}

func init() {
	fates["be faulty"] = func(a *application) {
		step = a.faultyStep
		debug.SetGCPercent(-1) // it would close what was forgotten
		faulty.limit = descriptorLimit().Cur
		if a.plan.Join > 0 {
			joinTimeout = a.plan.Join
		}
		for _, action := range a.plan.Steps {
			if action == "slow down" && inherited.child {
				inherited.link = interposeAt(inherited.link, false)
			}
		}
	}
	// The live connections are answered, and the next split can be disturbed.
	functions["take up"] = func(a *application, _ []string) (string, error) {
		a.m.launch = faultyLauncher{a.m.launch}
		conns := a.m.Conns("")
		for _, c := range conns {
			go a.answer(c)
		}
		return fmt.Sprint(len(conns)), nil
	}
	// limits: of Ready, State, Commit and of the end of a process.
	functions["limits"] = func(a *application, args []string) (string, error) {
		o := &a.m.options
		for i, limit := range []*time.Duration{&o.ReadyTimeout, &o.StateTimeout, &o.CommitTimeout, &exitTimeout} {
			d, err := time.ParseDuration(args[i])
			if err != nil {
				return "", err
			}
			*limit = d
		}
		return "", nil
	}
	functions["arm"] = func(a *application, args []string) (string, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.steps[args[0]] = args[1] // of "", there is no such step
		faulty.interpose = args[1] == "slow down"
		return "", nil
	}
	functions["recover"] = func(a *application, _ []string) (string, error) {
		a.m.mu.Lock()
		defer a.m.mu.Unlock()
		openPipe, faulty.interpose = os.Pipe, false
		a.mu.Lock()
		clear(a.steps)
		a.mu.Unlock()
		faulty.slow.Store(false)
		limitDescriptors(faulty.limit)
		return "", nil
	}
}

// faultyStep is step with faultActions. Each step with an action is reported before
// it and, if the process lives on, after it.
func (a *application) faultyStep(name string) {
	a.mu.Lock()
	actions := a.steps[name]
	delete(a.steps, name)
	a.mu.Unlock()
	if actions == "" {
		a.step(name)
		return
	}
	a.report("reached", name, nil)
	for action := range strings.SplitSeq(actions, ", ") {
		if f := faultActions[action]; f != nil {
			f(a)
			continue
		}
		a.mu.Lock()
		a.steps[name] = action
		a.mu.Unlock()
		a.step(name)
	}
	a.report("done", name, nil)
}

// faultyLauncher notes where the new process's end of the link is, and puts a relay
// in front of it.
type faultyLauncher struct{ launcher }

func (l faultyLauncher) number(i, descriptor int) int {
	if i == 0 {
		faulty.theirs = descriptor
	}
	return l.launcher.number(i, descriptor)
}

func (l faultyLauncher) start(c *Command, descriptors []int) (process, error) {
	faulty.theirs = -1
	if !faulty.interpose {
		return l.launcher.start(c, descriptors)
	}
	ours, err := sys.DuplicateDescriptor(descriptors[0])
	if err != nil {
		return nil, err
	}
	between := interposeAt(ours, true)
	defer sys.CloseDescriptor(between)
	for n := 0; n != wire.HelloSize; runtime.Gosched() { // it has to be there before the process is
		n, _ = sys.PeekLink(between, make([]byte, wire.HelloSize))
	}
	return l.launcher.start(c, append([]int{between}, descriptors[1:]...))
}

// linkDescriptor finds the control link: the one Unix stream socket whose other end
// is there.
func linkDescriptor() int {
	for fd := range 4096 {
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil || domain != unix.AF_UNIX || fd == faulty.theirs {
			continue
		}
		poll := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(poll, 0); err == nil && poll[0].Revents&unix.POLLHUP == 0 {
			return fd
		}
	}
	panic("there is no control link")
}

func writeToLink(b []byte, descriptors []int) {
	var rights []byte
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	if n, err := unix.SendmsgN(linkDescriptor(), b, rights, nil, 0); err != nil || n != len(b) {
		panic(fmt.Sprintf("the link took %d of %d bytes: %v", n, len(b), err))
	}
}

// faultFrame is a frame whose header promises what does not have to be there.
func faultFrame(kind wire.Kind, descriptors, length int, payload string) []byte {
	b := []byte{byte(kind), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(descriptors))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, payload...)
}

// descriptorLimit and limitDescriptors go past package syscall, which would give
// the changed limit to the processes that are started.
func descriptorLimit() (limit unix.Rlimit) {
	prlimit(nil, &limit)
	return limit
}

func limitDescriptors(n uint64) {
	limit := descriptorLimit()
	limit.Cur = n
	prlimit(&limit, nil)
}

func prlimit(set, old *unix.Rlimit) {
	_, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 0, 0)
	if errno != 0 {
		panic(errno)
	}
}

// lowestFree returns the limit at which there is no descriptor left.
func lowestFree() uint64 {
	for fd := uintptr(0); ; fd++ {
		if _, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil {
			return uint64(fd)
		}
	}
}
