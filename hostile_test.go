//go:build unix

package mitosis

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// someNonce is one that no hand-over of these tests has.
const someNonce = "f0e0d0c0b0a090807060504030201000"

func init() {
	functions["descriptor"] = func(_ *application, args []string) (string, error) {
		var fd int
		fmt.Sscan(args[0], &fd)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		return fmt.Sprintf("close-on-exec %t", flags&unix.FD_CLOEXEC != 0), err
	}
}

func listenLocally(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// socketFile returns a duplicate for a process that is to be started.
func socketFile(t testing.TB, c syscall.Conn) *os.File {
	t.Helper()
	fd, err := sys.Duplicate(c)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

// inheriting changes a plan: it claims the socket "0" of an impostor as its listener.
func inheriting(p *plan) {
	p.Sockets = []plannedSocket{{Name: "0", How: "listener"}}
	p.States = nil
}

func TestANewProcessTakesOverWhenItIsToldTo(t *testing.T) {
	t.Parallel()
	f, address := listenerFile(t)
	i := impersonate(t, typeListener, f)
	p := i.start(web(inheriting))
	i.join()
	client := dial(t, "tcp", address)
	client.say("a")
	i.hear(wire.Want)
	i.send(wire.Frame{Kind: wire.Optional | 0x7f, Payload: []byte("from a later version")})
	i.tell(wire.Complete, wire.Completion{})
	i.hear(wire.Ready)
	i.commit(1)
	i.hear(wire.Ack)
	i.hear(wire.Settled)
	p.await("serving")
	assert.Equal(t, answer{"a", 7, p.pid, 1}, client.hear())
}

func TestANewProcessDoesNotTakeOverUnlessItIsToldTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		commit func(*impostor)
		err    error
		text   string
	}{
		{"the commit is taken back", func(i *impostor) { i.commit(0) }, ErrTimeout, "took the commit back"},
		{"the commit has no token", func(i *impostor) { i.tell(wire.Commit, struct{}{}) }, ErrProtocol, "COMMIT"},
		{"there is a state after the last", func(i *impostor) { i.tell(wire.StateEnd, wire.StateName{Name: "x"}) }, ErrProtocol, "STATEEND"},
		{"the link is full of garbage", func(i *impostor) { i.send(wire.Frame{Kind: 0x7e}) }, ErrProtocol, "0x7e"},
		{"there is no commit in time", func(*impostor) {}, ErrTimeout, "wait for the commit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, address := listenerFile(t)
			i := impersonate(t, typeListener, f)
			p := i.start(web(inheriting, func(p *plan) {
				if c.err == ErrTimeout {
					p.Options.State = short
				}
			}))
			i.join()
			i.hear(wire.Want)
			i.tell(wire.Complete, wire.Completion{})
			i.hear(wire.Ready)
			dial(t, "tcp", address).say("a")
			c.commit(i)
			assert.Contains(t, i.refusal(), c.text)
			failed := p.await("ready").Error
			require.NotNil(t, failed)
			assert.ErrorContains(t, failed, c.text)
			if c.err != nil {
				assert.ErrorIs(t, failed, c.err)
			}
			p.awaitEnd()
			ln, err := net.FileListener(f)
			require.NoError(t, err)
			defer ln.Close()
			_, err = ln.Accept()
			assert.NoError(t, err, "the client is still in the queue")
		})
	}
}

func TestVersionsAreNegotiated(t *testing.T) {
	t.Parallel()
	t.Run("the highest that both speak", func(t *testing.T) {
		t.Parallel()
		i := impersonate(t, "")
		i.greeting.MaxVersion = wire.MaxVersion + 6
		i.start(plan{})
		i.tell(wire.Sockets, wire.Inheritance{Last: true})
		var joining wire.Joining
		require.NoError(t, i.hear(wire.Join).Decode(&joining, 0))
		assert.EqualValues(t, wire.MaxVersion, joining.Version)
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		i := impersonate(t, "")
		i.greeting.MinVersion, i.greeting.MaxVersion = wire.MaxVersion+1, wire.MaxVersion+2
		p := i.start(plan{})
		assert.Contains(t, i.refusal(), "no common protocol version")
		assert.ErrorIs(t, p.await("init").Error, ErrVersion)
		p.awaitEnd()
	})
}

func TestANewProcessTrustsNothing(t *testing.T) {
	t.Parallel()
	listener := func(t *testing.T) *os.File {
		f, _ := listenerFile(t)
		return f
	}
	for _, c := range []struct {
		name   string
		file   func(*testing.T) *os.File
		change func(*impostor)
		err    error
		text   string
	}{
		{"a socket under another name", listener, func(i *impostor) { i.sockets[0].Name = "other" }, ErrEnvironment, "other"},
		{"a socket on another descriptor", listener, func(i *impostor) { i.sockets[0].Descriptor++ }, ErrEnvironment, "descriptor 5"},
		{"a socket that is not announced", listener, func(i *impostor) { i.sockets = nil }, ErrEnvironment, "names 1 sockets"},
		{"a socket more than is there", listener, func(i *impostor) {
			i.sockets = append(i.sockets, wire.Socket{Name: "1", Descriptor: 5, Type: typeListener})
		}, ErrEnvironment, "announced 2"},
		{"a variable that was changed", listener, func(i *impostor) {
			i.variables[1] = strings.Replace(i.variables[1], "0=", "9=", 1)
		}, ErrEnvironment, "not those that the old process"},
		{"a variable that was added", listener, func(i *impostor) {
			i.variables = append(i.variables, "MITOSIS_SOCKETS_2=x=9")
		}, ErrEnvironment, "not those that the old process"},
		{"a variable that was lost", listener, func(i *impostor) { i.variables = i.variables[:1] }, ErrEnvironment, "not those that the old process"},
		{"a variable without sense", listener, func(i *impostor) { i.variables[1] = "MITOSIS_SOCKETS=0=4,1=4" }, ErrEnvironment, "also that of"},
		{"a descriptor that is closed", listener, func(i *impostor) {
			i.variables[1] = "MITOSIS_SOCKETS=0=77"
			i.greeting.Digest = digest(i.variables)
		}, ErrEnvironment, "descriptor 77"},
		{"a file that is said to be a listener", func(t *testing.T) *os.File {
			f, err := os.Open(os.DevNull)
			require.NoError(t, err)
			return f
		}, func(*impostor) {}, ErrEnvironment, "not a listener"},
		{"a packet socket that is said to be a listener", func(t *testing.T) *os.File {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { pc.Close() })
			return socketFile(t, pc.(*net.UDPConn))
		}, func(*impostor) {}, ErrEnvironment, "not a listener"},
		{"a connection that is said to be a listener", func(t *testing.T) *os.File {
			c, err := net.Dial("tcp", listenLocally(t).Addr().String())
			require.NoError(t, err)
			t.Cleanup(func() { c.Close() })
			return socketFile(t, c.(*net.TCPConn))
		}, func(*impostor) {}, ErrEnvironment, "not a listener"},
		{"a socket of an unknown type", listener, func(i *impostor) { i.sockets[0].Type = "telescope" }, ErrEnvironment, "telescope"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := impersonate(t, typeListener, c.file(t))
			c.change(i)
			p := i.start(web(inheriting))
			// It may have refused already.
			i.link.Send(message(wire.Sockets, wire.Inheritance{Sockets: i.sockets, Last: true}))
			reason := i.refusal()
			assert.Contains(t, reason, c.text)
			failed := p.await("init").Error
			assert.ErrorIs(t, failed, c.err)
			assert.ErrorContains(t, failed, reason)
			p.awaitEnd()
		})
	}
}

func TestStatesThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	const content = "some state"
	for _, c := range []struct {
		name string
		play func(i *impostor, send func(name string) *os.File)
		err  error
		text string
	}{
		{"that nobody asked for", func(_ *impostor, send func(string) *os.File) { send("other").Close() }, ErrProtocol, "not asked for"},
		{"without its pipe", func(i *impostor, _ func(string) *os.File) { i.tell(wire.State, wire.StateName{Name: "note"}) }, ErrProtocol, "descriptors"},
		{"shorter than it was", func(i *impostor, send func(string) *os.File) {
			send("note").Close()
			i.tell(wire.StateEnd, wire.StateName{Name: "note", Bytes: int64(len(content)) + 1})
		}, ErrTruncated, `state "note"`},
		{"longer than it was", func(i *impostor, send func(string) *os.File) {
			send("note").Close()
			i.tell(wire.StateEnd, wire.StateName{Name: "note", Bytes: 1})
		}, ErrTruncated, `state "note"`},
		{"that ends under another name", func(i *impostor, send func(string) *os.File) {
			defer send("note").Close()
			i.tell(wire.StateEnd, wire.StateName{Name: "other", Bytes: int64(len(content))})
		}, ErrProtocol, "STATEEND"},
		{"without an end", func(i *impostor, send func(string) *os.File) {
			defer send("note").Close()
			i.tell(wire.Complete, wire.Completion{States: 1})
		}, ErrProtocol, "COMPLETE"},
		{"that are fewer than announced", func(i *impostor, send func(string) *os.File) {
			send("note").Close()
			i.tell(wire.StateEnd, wire.StateName{Name: "note", Bytes: int64(len(content))})
			i.tell(wire.Complete, wire.Completion{States: 2})
		}, ErrProtocol, "1 states"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := impersonate(t, "")
			p := i.start(plan{States: []plannedState{{Name: "note", Kind: "bytes"}}})
			i.join()
			i.hear(wire.Want)
			c.play(i, func(name string) *os.File {
				r, w, err := os.Pipe()
				require.NoError(t, err)
				fd, err := sys.Duplicate(r)
				require.NoError(t, err)
				i.tell(wire.State, wire.StateName{Name: name}, fd)
				sys.CloseDescriptor(fd)
				_, err = w.WriteString(content)
				require.NoError(t, err)
				r.Close()
				return w
			})
			assert.Contains(t, i.refusal(), c.text)
			failed := p.await("ready").Error
			assert.ErrorIs(t, failed, c.err)
			p.awaitEnd()
		})
	}
}

// A program that was not started by a split, but finds the variables of one.
func TestVariablesThatLeadNowhereAreIgnored(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, f *os.File, err error) *os.File {
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	unixPair := func(t *testing.T, queued string) *os.File {
		peer, fd, err := sys.Pair()
		require.NoError(t, err)
		t.Cleanup(func() { peer.Close() })
		_, err = peer.Write([]byte(queued))
		require.NoError(t, err)
		return open(t, os.NewFile(uintptr(fd), "socket"), nil)
	}
	for _, c := range []struct {
		name, link string
		file       func(t *testing.T) *os.File
		queued     string
	}{
		{name: "standard input", link: "0"},
		{name: "a closed descriptor", link: "77"},
		{name: "no number", link: "x"},
		{"a file", "3", func(t *testing.T) *os.File {
			f, err := os.Open(os.DevNull)
			return open(t, f, err)
		}, ""},
		{"a TCP listener", "3", func(t *testing.T) *os.File {
			f, _ := listenerFile(t)
			return f
		}, ""},
		{"a TCP connection", "3", func(t *testing.T) *os.File {
			ln := listenLocally(t)
			c, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			t.Cleanup(func() { c.Close() })
			return socketFile(t, c.(*net.TCPConn))
		}, ""},
		{"a Unix listener", "3", func(t *testing.T) *os.File {
			ln, err := net.Listen("unix", temporary(t)+"/socket")
			require.NoError(t, err)
			t.Cleanup(func() { ln.Close() })
			return socketFile(t, ln.(*net.UnixListener))
		}, ""},
		{"a Unix socket of somebody else", "3", func(t *testing.T) *os.File { return unixPair(t, "x") }, "x"},
		{"a Unix socket with a lot of somebody else's", "3", func(t *testing.T) *os.File {
			return unixPair(t, strings.Repeat("READY=1\n", 100))
		}, strings.Repeat("READY=1\n", 100)},
		{"a Unix socket with nothing to read", "3", func(t *testing.T) *os.File { return unixPair(t, "") }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var f *os.File
			p := start(t, web(), func(command *exec.Cmd) {
				command.Env = append(command.Env, "MITOSIS_LINK="+c.link+","+someNonce, "MITOSIS_SOCKETS=web=3")
				if c.file != nil {
					f = c.file(t)
					command.ExtraFiles = []*os.File{f}
				}
			})
			assert.Equal(t, "1", p.do("generation"))
			assert.Equal(t, 1, p.dial("web").ask("a").Generation)
			p.awaitLog("environment variables of a hand-over were ignored", `"level":"WARN"`)
			for _, entry := range p.inventory().Environment {
				assert.NotContains(t, entry, "MITOSIS")
			}
			if f != nil {
				assert.Equal(t, "close-on-exec false", p.do("descriptor", "3"))
			}
			if c.queued != "" {
				b := make([]byte, len(c.queued))
				_, err := io.ReadFull(f, b)
				require.NoError(t, err)
				assert.Equal(t, c.queued, string(b))
			}
			second := p.split()
			assert.Equal(t, "2", second.do("generation"))
		})
	}
}

func TestTheLinkOfAnotherHandOverIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	i := impersonate(t, "")
	i.variables = []string{"MITOSIS_LINK=3," + someNonce}
	p := i.start(plan{Fate: "wait", Stay: true})
	p.await("held")
	assert.Equal(t, "close-on-exec false", p.do("descriptor", "3"))
	p.do("release", "fate")
	failed := p.await("init").Error
	assert.ErrorIs(t, failed, ErrEnvironment)
	assert.ErrorContains(t, failed, "nonce")
	assert.Equal(t, "close-on-exec false", p.do("descriptor", "3"))
	b := make([]byte, wire.HelloSize)
	n, err := sys.PeekLink(int(dupOf(t, i.files[0])), b)
	require.NoError(t, err)
	hello, err := wire.DecodeHello(b[:n])
	require.NoError(t, err)
	assert.Equal(t, i.greeting, hello, "it is still there for whom it is meant")
}

func dupOf(t testing.TB, f *os.File) int {
	fd, err := sys.Duplicate(f)
	require.NoError(t, err)
	t.Cleanup(func() { sys.CloseDescriptor(fd) })
	return fd
}
