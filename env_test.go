//go:build unix

package mitosis

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

func exampleNonce() (nonce [wire.NonceSize]byte) {
	copy(nonce[:], "\x00\xff0123456789abcd")
	return nonce
}

func TestTheEnvironmentSurvivesItsVariables(t *testing.T) {
	odd := []string{"web", "a b", "a=b", "a,b", ",", "=", "%2C", "+", "ü/日本語", "\"'$`\\", strings.Repeat("=", 255)}
	many := make([]namedDescriptor, 1000)
	for i := range many {
		many[i] = namedDescriptor{fmt.Sprintf("%d%s", i, strings.Repeat("=", 100)), 4 + i}
	}
	for _, c := range []struct {
		name      string
		sockets   []namedDescriptor
		variables int
	}{
		{"no sockets", nil, 1},
		{"odd names", func() (s []namedDescriptor) {
			for i, name := range odd {
				s = append(s, namedDescriptor{name, maxDescriptor - i})
			}
			return s
		}(), 2},
		{"1,000 long names", many, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := environment{link: firstDescriptor, nonce: exampleNonce(), sockets: c.sockets}
			variables := e.variables()
			assert.Len(t, variables, c.variables)
			for _, v := range variables {
				key, _, _ := strings.Cut(v, "=")
				assert.True(t, isVariable(key), key)
				assert.Less(t, len(v), 128<<10, "MAX_ARG_STRLEN")
			}
			parsed, err := parseVariables(variables)
			require.NoError(t, err)
			require.Equal(t, e, parsed)
			for _, v := range variables {
				t.Setenv(strings.SplitN(v, "=", 2)[0], strings.SplitN(v, "=", 2)[1])
			}
			require.Equal(t, variables, takeVariables())
		})
	}
}

func TestVariablesThatAreWrongAreRefused(t *testing.T) {
	link := linkVariable + "=3," + strings.Repeat("0f", wire.NonceSize)
	_, err := parseVariables([]string{link, socketsVariable + "=a=4"})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		variables []string
		text      string
	}{
		"nothing":                   {nil, linkVariable + " is missing"},
		"no link":                   {[]string{socketsVariable + "=a=4"}, linkVariable + " is missing"},
		"no nonce":                  {[]string{linkVariable + "=3"}, "nonce"},
		"a nonce that is too short": {[]string{link[:len(link)-1]}, "nonce"},
		"a nonce that is too long":  {[]string{link + "0"}, "nonce"},
		"a nonce of other letters":  {[]string{link[:len(link)-1] + "g"}, "nonce"},
		"no second variable":        {[]string{link, socketsVariable + "=a=4", socketsVariable + "_3=b=5"}, socketsVariable + "_2 is missing"},
		"only a second variable":    {[]string{link, socketsVariable + "_2=b=5"}, socketsVariable + " is missing"},
		"a name twice":              {[]string{link, socketsVariable + "=a=4,a=5"}, "twice"},
		"a name twice, escaped":     {[]string{link, socketsVariable + "=a=4,%61=5"}, "twice"},
		"a descriptor twice":        {[]string{link, socketsVariable + "=a=4,b=4"}, "descriptor 4"},
		"the link's descriptor":     {[]string{link, socketsVariable + "=a=3"}, "descriptor 3"},
		"an empty list":             {[]string{link, socketsVariable + "="}, "name=descriptor"},
		"no descriptor":             {[]string{link, socketsVariable + "=a"}, "name=descriptor"},
		"a broken escape":           {[]string{link, socketsVariable + "=%zz=4"}, "name=descriptor"},
		"an empty name":             {[]string{link, socketsVariable + "==4"}, ErrInvalidName.Error()},
		"a control character":       {[]string{link, socketsVariable + "=%00=4"}, ErrInvalidName.Error()},
	} {
		_, err := parseVariables(c.variables)
		assert.ErrorContains(t, err, c.text, name)
	}
	for _, number := range []string{"", "-1", "-4", "+4", "04", "0x4", " 4", "4 ", "4.0", "0", "1", "2",
		fmt.Sprint(maxDescriptor + 1), fmt.Sprint(math.MaxInt32), "4294967299", "18446744073709551619", strings.Repeat("9", 1000)} {
		_, err := parseVariables([]string{link, socketsVariable + "=a=" + number})
		assert.Error(t, err, "%q", number)
		e, err := parseVariables([]string{linkVariable + "=" + number + "," + strings.Repeat("00", wire.NonceSize)})
		assert.Error(t, err, "%q", number)
		assert.Zero(t, e.link)
	}
}

func TestOnlyOurVariablesAreScrubbed(t *testing.T) {
	ours := []string{linkVariable + "=x", socketsVariable + "=y", socketsVariable + "_2=z", socketsVariable + "_17=stray"}
	others := []string{"MITOSIS_OTHER=1", "MITOSIS_LINKED=2", "MITOSIS_SOCKETS_X=3", "MITOSIS_SOCKETS_=4", "MITOSIS=5"}
	for _, v := range append(slices.Clone(ours), others...) {
		key, value, _ := strings.Cut(v, "=")
		t.Setenv(key, value)
	}
	assert.Equal(t, others, withoutVariables(append(slices.Clone(ours), others...)))
	assert.Equal(t, ours[:3], takeVariables())
	for _, v := range ours {
		assert.NotContains(t, os.Environ(), v)
	}
	assert.Subset(t, os.Environ(), others)
	assert.Empty(t, takeVariables())
}

// openDescriptor returns a duplicate that is not close-on-exec. The tests that use
// it are not parallel, so no process inherits it by mistake.
func openDescriptor(t *testing.T, fd int) int {
	t.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 50)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(dup) })
	return dup
}

func closeOnExec(t *testing.T, fd int) bool {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	return flags&unix.FD_CLOEXEC != 0
}

func TestWhatIsInheritedIsChecked(t *testing.T) {
	file, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer file.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(pair[0])
	link, socket, plain := openDescriptor(t, pair[1]), openDescriptor(t, pair[0]), openDescriptor(t, int(file.Fd()))
	unix.Close(pair[1])
	closed := openDescriptor(t, plain)
	unix.Close(closed)
	send := func(b []byte) {
		_, err := unix.Write(pair[0], b)
		require.NoError(t, err)
	}
	drain := func() []byte {
		b := make([]byte, 4096)
		n, _, err := unix.Recvfrom(link, b, unix.MSG_DONTWAIT)
		require.NoError(t, err)
		return b[:n]
	}
	hello := func(nonce [wire.NonceSize]byte, variables []string) []byte {
		g := wire.Greeting{MinVersion: wire.MinVersion, MaxVersion: wire.MaxVersion, Pid: 42, Generation: 5, Nonce: nonce, Digest: digest(variables)}
		payload := g.Frame().Payload
		return append([]byte{byte(wire.Hello), 0, 0, 0, 0, 0, 0, byte(len(payload))}, payload...)
	}
	variables := func(link int) []string {
		return environment{link: link, nonce: exampleNonce(), sockets: []namedDescriptor{{"s", socket}}}.variables()
	}
	untouched := func(fds ...int) {
		t.Helper()
		for _, fd := range fds {
			assert.False(t, closeOnExec(t, fd))
		}
	}

	assert.Zero(t, inherit(nil))
	for name, fd := range map[string]int{"a file": plain, "a closed descriptor": closed, "a link without a word": link} {
		in := inherit(variables(fd))
		assert.False(t, in.child, name)
		assert.NoError(t, in.err, name)
		assert.Contains(t, in.warning, "ignored", name)
	}
	untouched(plain, link, socket)

	text := []byte("somebody else's bytes, which are at least as many as a greeting of this protocol has\n")
	send(text)
	in := inherit(variables(link))
	assert.False(t, in.child)
	assert.NoError(t, in.err)
	assert.Contains(t, in.warning, "not a control link")
	untouched(link, socket)
	assert.Equal(t, text, drain(), "its bytes stay unread")

	right := variables(link)
	send(hello([wire.NonceSize]byte{1}, right))
	in = inherit(right)
	assert.False(t, in.child)
	assert.ErrorIs(t, in.err, ErrEnvironment)
	assert.ErrorContains(t, in.err, "nonce")
	untouched(link, socket)
	drain()

	send(hello(exampleNonce(), append(slices.Clone(right), "more")))
	in = inherit(right)
	assert.True(t, in.child, "the old process is told")
	assert.ErrorIs(t, in.err, ErrEnvironment)
	assert.ErrorContains(t, in.err, "42")
	untouched(socket)
	drain()

	greeting := hello(exampleNonce(), right)
	send(greeting)
	in = inherit(right)
	assert.NoError(t, in.err)
	assert.Empty(t, in.warning)
	assert.True(t, in.child)
	assert.Equal(t, link, in.link)
	assert.Equal(t, uint64(5), in.hello.Generation)
	assert.Equal(t, []namedDescriptor{{"s", socket}}, in.sockets)
	assert.True(t, closeOnExec(t, link))
	assert.True(t, closeOnExec(t, socket))
	assert.Equal(t, greeting, drain(), "Init reads it")
}

// strangerVariable makes this binary a program that a generation starts by itself.
const strangerVariable = "PROGRAM_OF_AN_APPLICATION"

// stranger is what such a program finds.
type stranger struct {
	Environment, Descriptors []string
	Generation               int
	Log                      string
}

func init() {
	if os.Getenv(strangerVariable) != "" {
		json.NewEncoder(os.Stdout).Encode(lookAround())
		os.Exit(0)
	}
	functions["start a stranger"] = func(*application, []string) (string, error) { return startStranger() }
}

func lookAround() (s stranger) {
	for _, fd := range takeInventory().Descriptors {
		// What exec left open is not close-on-exec; what the runtime has opened since is.
		if strings.HasSuffix(fd, "false") {
			s.Descriptors = append(s.Descriptors, fd)
		}
	}
	b, _ := os.ReadFile("/proc/self/environ") // as it was at exec
	for variable := range strings.SplitSeq(string(b), "\x00") {
		if strings.HasPrefix(variable, "MITOSIS") {
			s.Environment = append(s.Environment, variable)
		}
	}
	var log bytes.Buffer
	m, err := Init(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err == nil {
		s.Generation = m.Generation()
		m.Close()
	}
	s.Log = log.String()
	return s
}

func startStranger() (string, error) {
	executable, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(executable)
	cmd.Env = append(os.Environ(), strangerVariable+"=1")
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	return string(b), err
}

func TestAProgramThatAGenerationStartsSeesNothingOfTheHandOver(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux shows the environment as it was at exec")
	}
	t.Parallel()
	// What the tests have themselves been started with is nobody's leak.
	var before stranger
	text, err := startStranger()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &before))
	first := start(t, web())
	sees := func(p *generation) {
		t.Helper()
		var s stranger
		require.NoError(t, json.Unmarshal([]byte(p.do("start a stranger")), &s))
		require.GreaterOrEqual(t, len(s.Descriptors), 3)
		assert.Equal(t, before.Descriptors[3:], s.Descriptors[3:])
		assert.Empty(t, s.Environment)
		assert.Equal(t, 1, s.Generation)
		assert.NotContains(t, s.Log, "ignored")
	}
	sees(first)
	first.plans(web(at(stepNewJoined, "hold")))
	done := first.begin("split")
	second := first.generation()
	second.await("held")
	sees(first)
	sees(second)
	second.do("release", stepNewJoined)
	_, err = first.answer(done)
	require.NoError(t, err)
	second.await("serving")
	sees(second)
}

func TestStaleVariablesAreIgnoredWithAWarning(t *testing.T) {
	t.Parallel()
	stale := environment{link: firstDescriptor, nonce: exampleNonce(), sockets: []namedDescriptor{{"web", 4}}}.variables()
	ours, theirs, err := sys.Pair()
	require.NoError(t, err)
	defer ours.Close()
	file := os.NewFile(uintptr(theirs), "somebody else's socket")
	_, err = io.WriteString(ours, "unread")
	require.NoError(t, err)
	for name, files := range map[string][]*os.File{"no descriptor": nil, "a socket of somebody else": {file}} {
		first := start(t, web(), func(cmd *exec.Cmd) {
			cmd.Env, cmd.ExtraFiles = append(cmd.Env, stale...), files
		})
		assert.Equal(t, "1", first.await("generation").Text, name)
		first.awaitLog(`"WARN"`, "environment variables of a hand-over were ignored")
		for _, v := range first.inventory().Environment {
			assert.False(t, strings.HasPrefix(v, "MITOSIS"), v)
		}
		first.plans(web())
		assert.Equal(t, "2", first.split().await("generation").Text, name)
	}
	b := make([]byte, 100)
	n, err := file.Read(b)
	require.NoError(t, err)
	assert.Equal(t, "unread", string(b[:n]))
	file.Close()
}

func FuzzParseVariables(f *testing.F) {
	nonce := exampleNonce()
	link := linkVariable + "=3," + hex.EncodeToString(nonce[:])
	f.Add(link)
	f.Add(link + "\x00" + socketsVariable + "=a%3D=4,b=5\x00" + socketsVariable + "_2=c+d=6")
	f.Add(link + "\x00" + socketsVariable + "=a=2")
	f.Add(linkVariable + "=-1,")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseVariables(strings.Split(text, "\x00"))
		require.True(t, e.link == 0 && err != nil || e.link >= 3, "link %d", e.link)
		for _, s := range e.sockets {
			require.GreaterOrEqual(t, s.descriptor, 3)
		}
		if err != nil {
			return
		}
		again, err := parseVariables(e.variables())
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}
