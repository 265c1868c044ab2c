package mitosis

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime/debug"
	"sync"
)

// State is something that the application knows and that the next generation is
// to know too.
//
// Save runs in the old generation during the cut, Load in the new one before its
// Ready returns. The one writes into a pipe that the other reads at the same time,
// so a state may be of any size and is never held in memory a second time. Save
// must not wait for a lock that is held across a call on a managed socket. An
// error or a panic in either fails the split, and the old generation goes on as if
// there had been none. After Load has returned nil, what it left unread is thrown
// away; if the old process ends in the middle of Save, Load's reader returns
// io.ErrUnexpectedEOF.
type State interface {
	Save(io.Writer) error
	Load(io.Reader) error
}

// Freezer is implemented by a State that has to be told when the cut begins.
// Freeze is called in the old generation after the readers of all live
// connections have come to rest and before anything is saved; from then until
// Thaw the application must not change the state. Thaw is called when the split
// has failed, or after the commit. [Locked] is a Freezer.
type Freezer interface {
	State
	Freeze()
	Thaw()
}

// Gob returns a State that is saved and loaded with encoding/gob. ptr points to
// the variable.
func Gob(ptr any) State { return gobState{ptr} }

type gobState struct{ ptr any }

func (s gobState) Save(w io.Writer) error { return gob.NewEncoder(w).Encode(s.ptr) }
func (s gobState) Load(r io.Reader) error { return gob.NewDecoder(r).Decode(s.ptr) }

// JSON returns a State that is saved and loaded with encoding/json. ptr points to
// the variable.
func JSON(ptr any) State { return jsonState{ptr} }

type jsonState struct{ ptr any }

func (s jsonState) Save(w io.Writer) error { return json.NewEncoder(w).Encode(s.ptr) }
func (s jsonState) Load(r io.Reader) error { return json.NewDecoder(r).Decode(s.ptr) }

// Bytes returns a State that is the content of *b. A nil slice arrives as an empty one.
func Bytes(b *[]byte) State { return bytesState{b} }

type bytesState struct{ b *[]byte }

func (s bytesState) Save(w io.Writer) error {
	_, err := w.Write(*s.b)
	return err
}

func (s bytesState) Load(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil {
		*s.b = b
	}
	return err
}

// Locked returns a [Freezer] that holds mu from the beginning of the cut until the
// thaw or the commit, so that nobody who takes mu for his changes makes one that is
// neither in the state nor undone. s is saved and loaded with mu held, and must not
// take it. It is what makes a state and the bytes on live connections one
// consistent cut: who changes the state and writes about it does both under mu.
func Locked(mu sync.Locker, s State) State { return lockedState{s, mu} }

type lockedState struct {
	State
	mu sync.Locker
}

func (s lockedState) Freeze() { s.mu.Lock() }
func (s lockedState) Thaw()   { s.mu.Unlock() }

func (s lockedState) Load(r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.State.Load(r)
}

// namedState is a state that the registry knows.
type namedState struct {
	name   string
	state  State
	frozen bool
}

// State makes a state known under a name. In a new generation [Registry.Ready]
// loads it, if the old one had it; otherwise the variable keeps its value. At the
// next split it is saved, if the new generation asks for it; otherwise it is
// dropped with a log record. States travel in the order in which the new
// generation made them known.
//
// State has to be called before Ready, in every generation: the error matches
// ErrTooLate afterwards, ErrNameTaken for a second state of that name, and
// ErrInvalidName. Names of states and of sockets are independent.
func (m *Registry) State(name string, s State) error {
	if err := m.addState(name, s); err != nil {
		return fmt.Errorf("mitosis: state %q: %w", name, err)
	}
	return nil
}

func (m *Registry) addState(name string, s State) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := checkState(s); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.phase {
	case warming:
	case closed:
		return ErrClosed
	default:
		return ErrTooLate
	}
	if m.findState(name) != nil {
		return ErrNameTaken
	}
	m.states = append(m.states, namedState{name: name, state: s})
	return nil
}

func (m *Registry) findState(name string) State {
	for _, s := range m.states {
		if s.name == name {
			return s.state
		}
	}
	return nil
}

// checkState finds on the first run what would fail at the first split.
func checkState(s State) error {
	switch s := s.(type) {
	case nil:
		return errors.New("it is nil")
	case lockedState:
		if s.mu == nil {
			return errors.New("Locked without a lock")
		}
		return checkState(s.State)
	case bytesState:
		if s.b == nil {
			return errors.New("Bytes of a nil pointer")
		}
	case gobState:
		return checkPointer("Gob", s.ptr)
	case jsonState:
		return checkPointer("JSON", s.ptr)
	}
	return nil
}

// guard turns a panic of the application's code into an error.
func guard(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: panic: %v\n%s", what, p, debug.Stack())
		} else if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
		}
	}()
	return f()
}

// countingWriter counts what a Save writes.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// stateReader reads the pipe of one state. The end of the pipe is the end of the
// state only if the old process has said so, and that it had as many bytes.
type stateReader struct {
	pipe    io.Reader
	n       int64
	verdict <-chan int64 // how many there were; closed without a value if nobody will say
	end     error
}

func (s *stateReader) Read(b []byte) (int, error) {
	if s.end != nil {
		return 0, s.end
	}
	n, err := s.pipe.Read(b)
	s.n += int64(n)
	if err == nil {
		return n, nil
	}
	s.end = err
	if errors.Is(err, io.EOF) {
		if total, ok := <-s.verdict; !ok || total != s.n {
			s.end = io.ErrUnexpectedEOF
		}
	}
	return n, s.end
}

// loadState runs Load and reads what it leaves, so that Save is never cut short.
func loadState(s State, r *stateReader) error {
	if err := guard("load", func() error { return s.Load(r) }); err != nil {
		if errors.Is(r.end, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %w", ErrTruncated, err)
		}
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("%w after %d bytes", ErrTruncated, r.n)
	}
	return nil
}

// checkPointer refuses what an encoder could save and a decoder could not load.
func checkPointer(what string, ptr any) error {
	if v := reflect.ValueOf(ptr); v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("%s needs a pointer to the variable, not %T", what, ptr)
	}
	return nil
}
