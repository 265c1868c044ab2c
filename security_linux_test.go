package mitosis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// secret is a state that nobody else may see.
const secret = "correct-horse-battery-staple"

// keeping changes a plan: the application knows the secret, or learns it.
func keeping(value string) func(*plan) {
	return func(p *plan) {
		p.States = append(p.States, plannedState{Name: "secret", Kind: "bytes", Value: value})
	}
}

// openSteps are those at which the pipe of a state, a connection or the token is
// under way.
var openSteps = []string{stepNewInit, stepNewWanted, stepNewLoading, stepNewReady, stepNewCommit, stepNewToken}

// atEach splits once for each of the steps and looks while both processes stand there.
func atEach(t *testing.T, steps []string, first *generation, change func(*plan), look func(step string, old, next *generation)) {
	t.Helper()
	old := first
	for _, step := range steps {
		old.plans(web(change, at(step, "hold")))
		done := old.begin("split")
		next := old.generation()
		next.await("held")
		look(step, old, next)
		next.do("release", step)
		_, err := old.answer(done)
		require.NoError(t, err)
		next.await("serving")
		old.awaitEnd()
		old = next
	}
}

func processFile(t testing.TB, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	require.NoError(t, err)
	return string(b)
}

func TestTheEnvironmentAndTheArgumentsOfANewProcessHoldNothingSecret(t *testing.T) {
	t.Parallel()
	first := start(t, web(keeping(secret)))
	arguments := processFile(t, first.pid, "cmdline")
	atEach(t, openSteps, first, keeping(""), func(step string, old, next *generation) {
		for _, p := range []*generation{old, next} {
			environment := processFile(t, p.pid, "environ")
			assert.NotContains(t, environment, secret, step)
			assert.Equal(t, arguments, processFile(t, p.pid, "cmdline"), step)
		}
		var ours []string
		for variable := range strings.SplitSeq(processFile(t, next.pid, "environ"), "\x00") {
			if strings.HasPrefix(variable, "MITOSIS") {
				ours = append(ours, variable)
			}
		}
		require.Len(t, ours, 2, step)
		assert.Regexp(t, `^MITOSIS_LINK=3,[0-9a-f]{32}$`, ours[0], step)
		assert.Equal(t, "MITOSIS_SOCKETS=web=4", ours[1], step)
	})
}

// socketLine finds the line of a socket in a table of the system.
func socketLine(t *testing.T, table, inode string) []string {
	t.Helper()
	b, err := os.ReadFile(table)
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); slices.Contains(fields, inode) {
			return fields
		}
	}
	return nil
}

// doors returns what another process could open or connect to, of what a process has.
func doors(t *testing.T, p *generation) (open []string) {
	t.Helper()
	directory := fmt.Sprintf("/proc/%d/fd", p.pid)
	entries, err := os.ReadDir(directory)
	require.NoError(t, err)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(directory, entry.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		inode, isSocket := strings.CutPrefix(target, "socket:[")
		inode = strings.TrimSuffix(inode, "]")
		switch {
		case isSocket:
			const flags, path, address, state = 3, 7, 1, 3 // fields of the tables
			unnamed, tcp := socketLine(t, "/proc/net/unix", inode), socketLine(t, "/proc/net/tcp", inode)
			switch {
			case unnamed != nil && len(unnamed) <= path && unnamed[flags] == "00000000":
			case tcp != nil && tcp[state] != "0A":
			case tcp != nil:
				open = append(open, "listener "+tcp[address])
			default:
				open = append(open, fmt.Sprintf("socket %s %q", inode, unnamed))
			}
		case target == os.DevNull, strings.HasPrefix(target, "pipe:["), strings.HasPrefix(target, "anon_inode:"):
		case strings.HasPrefix(target, "/sys/fs/cgroup/"): // the Go runtime's
		default:
			open = append(open, target)
		}
	}
	slices.Sort(open)
	return slices.Compact(open) // a listener may just be there twice
}

func listing(t *testing.T, directories ...string) (names []string) {
	t.Helper()
	for _, directory := range directories {
		require.NoError(t, filepath.WalkDir(directory, func(path string, _ os.DirEntry, err error) error {
			names = append(names, path)
			return err
		}))
	}
	return names
}

func TestWhileASplitIsUnderWayThereIsNothingThatOthersCouldOpen(t *testing.T) {
	t.Parallel()
	directories := []string{temporary(t), temporary(t), temporary(t), temporary(t)}
	withFile := func(p *plan) { p.Options.PIDFile = filepath.Join(directories[3], "pid") }
	change := func(value string) func(*plan) {
		return func(p *plan) { withFile(p); keeping(value)(p) }
	}
	first := start(t, web(change(secret)), func(c *exec.Cmd) {
		c.Dir = directories[0]
		c.Env = append(c.Env, "TMPDIR="+directories[1], "HOME="+directories[2], "XDG_RUNTIME_DIR="+directories[2])
	})
	first.do("dial", "live", listenLocally(t).Addr().String())
	files := listing(t, directories...)
	require.Len(t, files, len(directories)+1)
	before := doors(t, first)
	require.Len(t, before, 1, "the listener of the service")
	atEach(t, openSteps, first, change(""), func(step string, old, next *generation) {
		assert.Equal(t, files, listing(t, directories...), step)
		assert.Equal(t, before, doors(t, old), step)
		assert.Subset(t, before, doors(t, next), step)
	})
	assert.Equal(t, files, listing(t, directories...))
}

// spyVariable makes this binary a program that tries to look into a process.
const spyVariable = "SPY_ON_PROCESS"

func init() {
	var pid int
	if n, _ := fmt.Sscan(os.Getenv(spyVariable), &pid); n == 1 {
		json.NewEncoder(os.Stdout).Encode(spyOn(pid))
		os.Exit(0)
	}
}

// spyOn says for each way into a process whether it is open.
func spyOn(pid int) map[string]bool {
	found := map[string]bool{}
	directory := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(directory + "fd")
	found["list its descriptors"] = err == nil
	for _, entry := range entries {
		_, err := os.Readlink(directory + "fd/" + entry.Name())
		found["see its descriptors"] = found["see its descriptors"] || err == nil
	}
	for fd := range 64 { // without the list
		f, err := os.OpenFile(fmt.Sprintf("%sfd/%d", directory, fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			f.Close()
		}
		found["open its pipes"] = found["open its pipes"] || err == nil
	}
	b, err := os.ReadFile(directory + "environ")
	found["read its environment"] = err == nil && len(b) > 0
	f, err := os.Open(directory + "mem")
	if err == nil {
		f.Close()
	}
	found["read its memory"] = err == nil
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		var taken int
		taken, err = unix.PidfdGetfd(pidfd, firstDescriptor, 0)
		unix.Close(taken)
	}
	found["take its descriptors"] = err == nil
	found["signal it"] = unix.Kill(pid, 0) == nil
	return found
}

// publicBinary returns a copy of this binary that every user may run.
func publicBinary(t *testing.T, mode os.FileMode) string {
	t.Helper()
	directory := temporary(t)
	require.NoError(t, os.Chmod(directory, 0o755))
	path := filepath.Join(directory, "program")
	// Not by this process: the copy would be open for writing in its children.
	out, err := exec.Command("cp", programPath(t), path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Chmod(path, mode))
	return path
}

// as lets a command run as another user.
func as(user uint32, command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	command.Dir = "/"
}

func TestAnotherUserSeesNothingOfASplit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run processes of several users")
	}
	t.Parallel()
	const owner, other = 64_001, 64_002
	path := publicBinary(t, 0o755)
	first := start(t, web(keeping(secret)), func(c *exec.Cmd) {
		c.Path, c.Args = path, []string{path}
		as(owner, c)
	})
	spy := func(user uint32, pid int) (found map[string]bool) {
		command := exec.Command(path)
		command.Env = []string{fmt.Sprintf("%s=%d", spyVariable, pid)}
		command.Stderr = os.Stderr
		as(user, command)
		b, err := command.Output()
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &found))
		return found
	}
	atEach(t, []string{stepNewLoading, stepNewToken}, first, keeping(""), func(step string, old, next *generation) {
		for _, p := range []*generation{old, next} {
			for way, open := range spy(other, p.pid) {
				assert.False(t, open, "%s: another user can %s", step, way)
			}
		}
	})
	// What the spy tries does work, for the user whose process it is; whether that one
	// may trace it is another question (Yama, seccomp).
	first = start(t, web(keeping(secret)), func(c *exec.Cmd) {
		c.Path, c.Args = path, []string{path}
		as(owner, c)
	})
	ways := spy(owner, first.pid)
	for _, way := range []string{"list its descriptors", "see its descriptors", "open its pipes", "read its environment", "signal it"} {
		assert.True(t, ways[way], "the same user cannot %s", way)
	}
}

// setIDVariable makes this binary one of two: a program with set-user-ID that looks
// what it has inherited, or a user who starts it and plays its old process.
const setIDVariable = "SET_ID_PROGRAM"

// found is what a program with set-user-ID has inherited.
type found struct {
	Child           bool
	Error           string
	User, Effective int
}

func init() {
	switch value := os.Getenv(setIDVariable); {
	case value == "look":
		f := found{Child: inherited.child, User: os.Getuid(), Effective: os.Geteuid()}
		if inherited.err != nil {
			f.Error = inherited.err.Error()
		}
		json.NewEncoder(os.Stdout).Encode(f)
		os.Exit(0)
	case value != "":
		if err := handOverTo(value); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// handOverTo starts a program with a control link and variables that fit.
func handOverTo(path string) error {
	ours, theirs, err := sys.Pair()
	if err != nil {
		return err
	}
	variables := environment{link: firstDescriptor, nonce: exampleNonce()}.variables()
	greeting := wire.Greeting{
		MinVersion: wire.MinVersion, MaxVersion: wire.MaxVersion, Pid: uint32(os.Getpid()), Generation: 1,
		Nonce: exampleNonce(), Digest: digest(variables),
	}
	if err := wire.NewLink(ours).Send(greeting.Frame()); err != nil {
		return err
	}
	command := exec.Command(path)
	command.Env = append(variables, setIDVariable+"=look")
	command.ExtraFiles = []*os.File{os.NewFile(uintptr(theirs), "link")}
	command.Stdout, command.Stderr = os.Stdout, os.Stdout
	return command.Run()
}

func TestASetUserIDProgramTakesNothingOverFromTheUserWhoStartsIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make such a program")
	}
	t.Parallel()
	const owner, attacker = 64_003, 64_004
	plain := publicBinary(t, 0o755)
	program := publicBinary(t, 0o755)
	require.NoError(t, os.Chown(program, owner, owner))
	require.NoError(t, os.Chmod(program, 0o755|os.ModeSetuid|os.ModeSetgid))
	startedBy := func(user uint32, path string) (f found) {
		t.Helper()
		command := exec.Command(plain)
		command.Env = []string{setIDVariable + "=" + path}
		as(user, command)
		b, err := command.CombinedOutput()
		require.NoError(t, err, "%s", b)
		require.NoError(t, json.NewDecoder(bytes.NewReader(b)).Decode(&f), "%s", b)
		return f
	}
	f := startedBy(attacker, program)
	if f.Effective != owner {
		t.Skip("the file system knows no set-user-ID")
	}
	assert.False(t, f.Child)
	assert.Contains(t, f.Error, "takes nothing over from a process with the rights of 64004:64004")
	// The same variables and link are good for a program without it, and root may
	// hand over to everybody.
	assert.Equal(t, found{Child: true, User: attacker, Effective: attacker}, startedBy(attacker, plain))
	assert.Equal(t, found{Child: true, User: 0, Effective: owner}, startedBy(0, program))
	assert.Equal(t, found{Child: true, User: owner, Effective: owner}, startedBy(owner, program))
}
