//go:build unix

package mitosis

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// impostor plays the part of the old process for a new one, frame by frame.
type impostor struct {
	t         testing.TB
	link      *wire.Link
	files     []*os.File // of the new process, from descriptor 3; the first is its link
	sockets   []wire.Socket
	greeting  wire.Greeting
	variables []string
}

// impersonate returns an old process that has the files as sockets "0", "1" and so
// on, of the type given.
func impersonate(t testing.TB, kind string, files ...*os.File) *impostor {
	t.Helper()
	ours, theirs, err := sys.Pair()
	require.NoError(t, err)
	i := &impostor{t: t, link: wire.NewLink(ours), files: []*os.File{os.NewFile(uintptr(theirs), "link")}}
	t.Cleanup(func() {
		i.link.Close()
		for _, f := range i.files {
			f.Close()
		}
	})
	env := environment{link: firstDescriptor, nonce: [wire.NonceSize]byte{1, 2, 3}}
	for n, f := range files {
		i.files = append(i.files, f)
		s := wire.Socket{Name: string(rune('0' + n)), Descriptor: firstDescriptor + 1 + n, Type: kind}
		i.sockets = append(i.sockets, s)
		env.sockets = append(env.sockets, namedDescriptor{s.Name, s.Descriptor})
	}
	i.variables = env.variables()
	i.greeting = wire.Greeting{
		MinVersion: wire.MinVersion, MaxVersion: wire.MaxVersion, Pid: uint32(os.Getpid()), Generation: 6,
		Nonce: env.nonce, Digest: digest(i.variables),
	}
	return i
}

// start greets a new process and starts it.
func (i *impostor) start(p plan) *generation {
	i.t.Helper()
	i.send(i.greeting.Frame())
	g := newProgram(i.t, p)
	g.launch(i.command)
	return g.generation()
}

func (i *impostor) command(c *exec.Cmd) {
	c.Env = append(c.Env, i.variables...)
	c.ExtraFiles = i.files
}

func (i *impostor) send(f wire.Frame) {
	i.t.Helper()
	require.NoError(i.t, i.link.Send(f))
}

// tell sends a message.
func (i *impostor) tell(kind wire.Kind, v any, descriptors ...int) {
	i.t.Helper()
	i.send(message(kind, v, descriptors...))
}

// join says what is inherited, and waits until the new process has joined.
func (i *impostor) join() {
	i.t.Helper()
	i.tell(wire.Sockets, wire.Inheritance{Sockets: i.sockets, Last: true})
	i.hear(wire.Join)
}

// hear waits for a frame of that kind.
func (i *impostor) hear(kind wire.Kind) wire.Frame {
	i.t.Helper()
	// The link's other end in this process would hide its end in the other.
	i.files[0].Close()
	f, err := i.link.Receive()
	require.NoError(i.t, err, "%v was expected", kind)
	require.Equal(i.t, kind, f.Kind, "%s", f.Payload)
	return f
}

// refusal waits until the new process says why it does not go on.
func (i *impostor) refusal() string {
	i.t.Helper()
	var refusal wire.Refusal
	require.NoError(i.t, i.hear(wire.Refuse).Decode(&refusal, 0))
	return refusal.Reason
}

// commit commits with a pipe that holds so many tokens.
func (i *impostor) commit(tokens int) {
	i.t.Helper()
	r, w, err := os.Pipe()
	require.NoError(i.t, err)
	defer r.Close()
	_, err = w.Write(make([]byte, tokens))
	require.NoError(i.t, err)
	require.NoError(i.t, w.Close())
	theirs, err := sys.Duplicate(r)
	require.NoError(i.t, err)
	defer sys.CloseDescriptor(theirs)
	i.tell(wire.Commit, struct{}{}, theirs)
}

// listenerFile returns a listening TCP socket and its address.
func listenerFile(t testing.TB) (*os.File, string) {
	t.Helper()
	ln := listenLocally(t)
	return socketFile(t, ln), ln.Addr().String()
}
