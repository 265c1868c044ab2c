//go:build unix

package mitosis

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// states is the plan of an application that has nothing but states.
func states(all ...plannedState) plan { return plan{States: all} }

func TestStatesTravelOverThreeGenerations(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789abcdef", 1<<16) // more than a pipe holds
	for _, kind := range []string{"gob", "json", "bytes", "locked"} {
		for name, value := range map[string]string{"empty": "", "short": "a \x00 b ü\n", "long": long} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				if kind == "json" || kind == "locked" {
					value = strings.ToValidUTF8(value, "?")
				}
				first := start(t, states(plannedState{Name: "s", Kind: kind, Value: "the first"}))
				first.do("set", "s", value)
				first.plans(states(plannedState{Name: "s", Kind: kind, Value: "what it would have been"}))
				second := first.split()
				require.Equal(t, value, second.do("get", "s"))
				second.do("set", "s", value+"!")
				third := second.split()
				require.Equal(t, value+"!", third.do("get", "s"))
			})
		}
	}
}

func TestALargeStateArrivesByteByByte(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	pattern := states(plannedState{Name: "large", Kind: "pattern", Size: size})
	first := start(t, pattern)
	done := first.begin("split")
	second := first.generation()
	second.await("serving")
	loaded := second.do("get", "large")
	_, err := first.answer(done)
	require.NoError(t, err)
	var want string
	require.NoError(t, (&patternState{size, &want}).Save(io.Discard))
	assert.Equal(t, want, loaded)
	first.awaitLog("state saved", `"bytes":`+strconv.Itoa(size))
	first.awaitLog("state loaded", `"bytes":`+strconv.Itoa(size))
}

func TestAStateThatTheNewGenerationDoesNotKnowIsDroppedWithARecord(t *testing.T) {
	t.Parallel()
	first := start(t, states(plannedState{Name: "old", Kind: "gob"}, plannedState{Name: "kept", Kind: "gob", Value: "k"}))
	first.plans(states(plannedState{Name: "kept", Kind: "gob"}))
	second := first.split()
	assert.Equal(t, "k", second.do("get", "kept"))
	first.awaitLog("state dropped", `"name":"old"`, `"level":"WARN"`)
	assert.Empty(t, findLine(first.log(), "state dropped", `"kept"`))
}

func TestAStateThatTheOldGenerationDoesNotKnowIsNotLoaded(t *testing.T) {
	t.Parallel()
	first := start(t, states(plannedState{Name: "kept", Kind: "gob", Value: "k"}))
	first.plans(states(plannedState{Name: "new", Kind: "gob", Value: "as it was", Load: "error"}, plannedState{Name: "kept", Kind: "gob"}))
	second := first.split()
	assert.Equal(t, "as it was", second.do("get", "new"))
	assert.Equal(t, "k", second.do("get", "kept"))
}

func TestStatesTravelInTheOrderOfTheNewGeneration(t *testing.T) {
	t.Parallel()
	reporting := func(names ...string) (p plan) {
		for _, name := range names {
			p.States = append(p.States, plannedState{Name: name, Kind: "gob", Save: "report", Load: "report"})
		}
		return p
	}
	first := start(t, reporting("a", "b", "c", "d"))
	first.plans(reporting("c", "x", "a", "d"))
	second := first.split()
	for _, name := range []string{"c", "a", "d"} {
		assert.Equal(t, name, first.await("save").Text)
		assert.Equal(t, name, second.await("load").Text)
	}
}

func TestWhatLoadLeavesUnreadIsThrownAway(t *testing.T) {
	t.Parallel()
	first := start(t, states(
		plannedState{Name: "large", Kind: "pattern", Size: 8 << 20},
		plannedState{Name: "next", Kind: "gob", Value: "n"},
	))
	first.plans(states(
		plannedState{Name: "large", Kind: "pattern", Load: "ignore"},
		plannedState{Name: "next", Kind: "gob"},
	))
	second := first.split()
	assert.Equal(t, "n", second.do("get", "next"))
	assert.Empty(t, second.do("get", "large"))
}

func TestNobodyChangesALockedStateBetweenItsSaveAndTheCommit(t *testing.T) {
	t.Parallel()
	p := states(plannedState{Name: "s", Kind: "locked"})
	for _, c := range []struct {
		name string
		err  error // of the split
	}{
		{"after the commit it is too late", nil},
		{"after a failure it is done", ErrChildExited},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := start(t, states(plannedState{Name: "s", Kind: "locked", Value: "before"}))
			next := p
			at(stepNewLoaded, "hold")(&next)
			first.plans(next)
			done := first.begin("split")
			second := first.generation()
			second.await("held")
			changed := first.begin("set locked", "s", "after")
			first.do("get", "s") // the change is not quicker than this
			assert.Empty(t, changed)
			if c.err != nil {
				second.kill()
			} else {
				second.do("release", stepNewLoaded)
			}
			_, err := first.answer(done)
			first.answer(changed)
			if c.err == nil {
				require.NoError(t, err)
				assert.Equal(t, "before", second.do("get", "s"))
				return
			}
			require.ErrorIs(t, err, c.err)
			first.plans(p)
			assert.Equal(t, "after", first.split().do("get", "s"))
		})
	}
}

// A state goes through an inherited pipe and nowhere else.
func TestNothingOfAStateIsSeenElsewhere(t *testing.T) {
	t.Parallel()
	const secret = "correct horse battery staple"
	p := states(plannedState{Name: "secret", Kind: "json", Value: secret}, plannedState{Name: "b", Kind: "gob"})
	first := start(t, p)
	failing := states(plannedState{Name: "secret", Kind: "json"}, plannedState{Name: "b", Kind: "gob", Load: "error"})
	first.plans(failing)
	first.failSplit()
	first.generation()
	garbled := states(plannedState{Name: "secret", Kind: "gob"}) // another encoding
	first.plans(garbled)
	first.failSplit()
	first.generation()
	first.plans(states(plannedState{Name: "secret", Kind: "json"}, plannedState{Name: "b", Kind: "gob"}))
	second := first.split()
	third := second.split()
	require.Equal(t, secret, third.do("get", "secret"))
	assert.NotContains(t, first.log(), secret)
	assert.NotContains(t, first.log(), "horse")
	if runtime.GOOS != "linux" {
		return
	}
	for _, file := range []string{"environ", "cmdline"} {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(third.pid) + "/" + file)
		require.NoError(t, err)
		assert.NotContains(t, string(b), "horse")
	}
}

func TestEveryPhaseIsLogged(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	first.split()
	for _, phase := range []string{"start", "warm-up", "freeze", "transfer", "commit"} {
		first.awaitLog("mitosis: split", `"phase":"`+phase+`"`, `"generation":1`)
		first.awaitLog("superseded", `"`+phase+`":`, `"total":`)
	}
	first.awaitLog("new process started", `"child":`)
	first.awaitLog("warming up", `"generation":2`, `"predecessor":`)
	first.awaitLog("serving", `"generation":2`, `"duration":`)

	other := start(t, web())
	other.plans(web(at(stepNewLoaded, "kill")))
	other.failSplit()
	other.awaitLog("split failed", `"phase":"transfer"`, `"error":`, `"warm-up":`, `"level":"WARN"`)
}

// The end of the pipe is the end of the state only if the old process says so.
func TestAStateIsWholeOnlyIfItIsSaidToBe(t *testing.T) {
	t.Parallel()
	read := func(verdict ...int64) (string, error) {
		said := make(chan int64, 1)
		for _, n := range verdict {
			said <- n
		}
		close(said)
		r := &stateReader{pipe: strings.NewReader("12345"), verdict: said}
		var got []byte
		err := loadState(Bytes(&got), r)
		return string(got), err
	}
	got, err := read(5)
	assert.NoError(t, err)
	assert.Equal(t, "12345", got)
	for _, wrong := range [][]int64{{}, {4}, {6}, {0}} {
		got, err = read(wrong...)
		assert.ErrorIs(t, err, ErrTruncated, "%v", wrong)
		assert.Empty(t, got)
	}

	// Also when Load itself has seen no end.
	said := make(chan int64, 1)
	said <- 6
	err = loadState(loadFunc(func(r io.Reader) error {
		_, err := io.ReadFull(r, make([]byte, 2))
		return err
	}), &stateReader{pipe: strings.NewReader("12345"), verdict: said})
	assert.ErrorIs(t, err, ErrTruncated)

	broken := errors.New("broken")
	err = loadState(loadFunc(func(io.Reader) error { return broken }), &stateReader{pipe: bytes.NewReader(nil)})
	assert.ErrorIs(t, err, broken)
	assert.NotErrorIs(t, err, ErrTruncated)
	err = loadState(loadFunc(func(io.Reader) error { panic("at the disco") }), &stateReader{pipe: bytes.NewReader(nil)})
	assert.ErrorContains(t, err, "at the disco")
}

type loadFunc func(io.Reader) error

func (f loadFunc) Load(r io.Reader) error { return f(r) }
func (loadFunc) Save(io.Writer) error     { return nil }

func TestBytesOfNilArriveEmpty(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var nothing []byte
	require.NoError(t, Bytes(&nothing).Save(&out))
	got := []byte("something")
	require.NoError(t, Bytes(&got).Load(&out))
	assert.Empty(t, got)
}
