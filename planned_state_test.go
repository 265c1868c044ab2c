//go:build unix

package mitosis

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

// plannedState is a state of a process.
type plannedState struct {
	Name  string
	Kind  string // "requests", "gob", "json", "bytes", "locked" or "pattern"
	Value string `json:",omitempty"` // of the variable, before Ready
	Size  int64  `json:",omitempty"` // of a pattern, in bytes

	Save string `json:",omitempty"` // what goes wrong; see misbehave
	Load string `json:",omitempty"`
}

// state returns the State of the plan.
func (a *application) state(s plannedState) State {
	a.mu.Lock()
	value := s.Value
	a.values[s.Name] = &value
	a.mu.Unlock()
	var state State
	switch s.Kind {
	case "requests":
		state = Locked(a.lock(s.Name), Gob(&a.requests))
	case "gob":
		state = Gob(&value)
	case "json":
		state = JSON(&value)
	case "bytes":
		state = textState{&value}
	case "locked":
		state = Locked(a.lock(s.Name), JSON(&value))
	case "pattern":
		state = &patternState{size: s.Size, digest: &value}
	default:
		panic("unknown kind of state: " + s.Kind)
	}
	if s.Save != "" || s.Load != "" {
		state = &faultyState{state, a, s}
	}
	return state
}

func (a *application) lock(name string) *sync.Mutex {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.locks[name] == nil {
		a.locks[name] = new(sync.Mutex)
	}
	return a.locks[name]
}

// textState is Bytes for a string.
type textState struct{ s *string }

func (t textState) Save(w io.Writer) error {
	b := []byte(*t.s)
	return Bytes(&b).Save(w)
}

func (t textState) Load(r io.Reader) error {
	var b []byte
	if err := Bytes(&b).Load(r); err != nil {
		return err
	}
	*t.s = string(b)
	return nil
}

// faultyState goes wrong in its Save or its Load.
type faultyState struct {
	State
	a       *application
	planned plannedState
}

func (f *faultyState) Save(w io.Writer) error {
	how := f.planned.Save
	f.planned.Save = "" // the next time it goes well
	if err := f.misbehave("save", how); err != nil {
		return err
	}
	return f.State.Save(w)
}

func (f *faultyState) Load(r io.Reader) error {
	if f.planned.Load == "ignore" {
		return nil
	}
	if err := f.misbehave("load", f.planned.Load); err != nil {
		return err
	}
	return f.State.Load(r)
}

func (f *faultyState) misbehave(what, how string) error {
	switch how {
	case "", "well":
		return nil
	case "error":
		return fmt.Errorf("%s: %w", f.planned.Name, errMisbehaviour)
	case "panic":
		panic(errMisbehaviour)
	case "hold":
		f.a.hold(what, "held")
		return nil
	case "report":
		f.a.report(what, f.planned.Name, nil)
		return nil
	}
	return errors.New("unknown misbehaviour " + how)
}

// patternState is a number of bytes of which no two stretches are alike. Its digest
// is that of the bytes that were saved or loaded.
type patternState struct {
	size   int64
	digest *string
}

func (p *patternState) Save(w io.Writer) error {
	return p.sum(func(sum io.Writer) error {
		return writePattern(io.MultiWriter(w, sum), p.size)
	})
}

func (p *patternState) Load(r io.Reader) error {
	return p.sum(func(sum io.Writer) error {
		_, err := io.Copy(sum, r)
		return err
	})
}

func (p *patternState) sum(pass func(io.Writer) error) error {
	sum := sha256.New()
	if err := pass(sum); err != nil {
		return err
	}
	*p.digest = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// writePattern writes the first bytes of a ChaCha8 stream, in pieces that match no
// buffer's size.
func writePattern(w io.Writer, size int64) error {
	source := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, 77_777)
	for size > 0 {
		n := min(size, int64(len(piece)))
		source.Read(piece[:n])
		if _, err := w.Write(piece[:n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

func init() {
	functions["get"] = func(a *application, args []string) (string, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return *a.values[args[0]], nil
	}
	functions["set"] = func(a *application, args []string) (string, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		*a.values[args[0]] = args[1]
		return "", nil
	}
	functions["set locked"] = func(a *application, args []string) (string, error) {
		lock := a.lock(args[0])
		lock.Lock()
		defer lock.Unlock()
		*a.values[args[0]] = args[1]
		return "", nil
	}
	functions["lock"] = func(a *application, args []string) (string, error) {
		a.lock(args[0]).Lock()
		return "", nil
	}
	functions["unlock"] = func(a *application, args []string) (string, error) {
		a.lock(args[0]).Unlock()
		return "", nil
	}
}
