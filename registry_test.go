package mitosis

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newTestRegistry returns a registry of a first generation inside the tests.
func newTestRegistry(t testing.TB) *Registry {
	t.Helper()
	m, err := newInProcess(Options{Logger: slog.New(slog.DiscardHandler)}, inheritance{})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

const anywhere = "127.0.0.1:0"

func TestNamesThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	var note string
	for _, name := range []string{"", strings.Repeat("a", 256), "a\nb", "a\x00b", "\xff", "\u0085"} {
		_, err := m.Listen(name, "tcp", anywhere)
		assert.ErrorIs(t, err, ErrInvalidName, "%q", name)
		_, err = m.ListenPacket(name, "udp", anywhere)
		assert.ErrorIs(t, err, ErrInvalidName, "%q", name)
		assert.ErrorIs(t, m.State(name, JSON(&note)), ErrInvalidName, "%q", name)
		ln, err := net.Listen("tcp", anywhere)
		require.NoError(t, err)
		_, err = m.AddListener(name, ln)
		assert.ErrorIs(t, err, ErrInvalidName, "%q", name)
		assert.NoError(t, ln.Close(), "it is still the caller's")
		assert.ErrorIs(t, m.AddFile(name, os.Stdin), ErrInvalidName, "%q", name)
	}
	for _, name := range []string{strings.Repeat("a", 255), "a b", "ä,=%", "日本"} {
		_, err := m.Listen(name, "tcp", anywhere)
		assert.NoError(t, err, "%q", name)
		assert.NoError(t, m.State(name, JSON(&note)), "states have names of their own")
	}
}

func TestANameIsUsedOnce(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	web, err := m.Listen("web", "tcp", anywhere)
	require.NoError(t, err)
	_, err = m.Listen("web", "tcp", anywhere)
	assert.ErrorIs(t, err, ErrNameTaken)
	assert.ErrorContains(t, err, `"web"`)
	_, err = m.ListenPacket("web", "udp", anywhere)
	assert.ErrorIs(t, err, ErrNameTaken)
	assert.ErrorIs(t, m.AddFile("web", os.Stdin), ErrNameTaken)
	_, err = m.AddListener("other", web)
	assert.ErrorIs(t, err, ErrNameTaken, "it is managed already")

	again, err := m.Listener("web")
	require.NoError(t, err)
	assert.Same(t, web, again)
	_, err = m.PacketConn("web")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = m.File("web")
	assert.ErrorIs(t, err, ErrNotFound)

	require.NoError(t, web.Close())
	_, err = m.Listener("web")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = m.Listen("web", "tcp", anywhere)
	assert.NoError(t, err, "a closed one has given its name back")

	var note string
	require.NoError(t, m.State("note", JSON(&note)))
	assert.ErrorIs(t, m.State("note", Gob(&note)), ErrNameTaken)
}

func TestWhatHasNoDescriptorIsNotTaken(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	ln, err := net.Listen("tcp", anywhere)
	require.NoError(t, err)
	secure := tls.NewListener(ln, &tls.Config{})
	_, err = m.AddListener("tls", secure)
	assert.ErrorIs(t, err, ErrNotTransferable)
	assert.ErrorContains(t, err, "tls", "it says what it is")
	for _, nothing := range []net.Listener{nil, (*net.TCPListener)(nil), (*net.UnixListener)(nil), struct{ net.Listener }{ln}} {
		_, err := m.AddListener("nothing", nothing)
		assert.ErrorIs(t, err, ErrNotTransferable)
	}
	for _, nothing := range []net.PacketConn{nil, (*net.UDPConn)(nil), struct{ net.PacketConn }{}} {
		_, err := m.AddPacketConn("nothing", nothing)
		assert.ErrorIs(t, err, ErrNotTransferable)
	}
	assert.ErrorIs(t, m.AddFile("nothing", nil), os.ErrInvalid)

	require.NoError(t, ln.Close(), "it is still the caller's")
	_, err = m.AddListener("closed", ln)
	assert.ErrorIs(t, err, net.ErrClosed)
	pc, err := net.ListenPacket("udp", anywhere)
	require.NoError(t, err)
	require.NoError(t, pc.Close())
	_, err = m.AddPacketConn("closed", pc)
	assert.ErrorIs(t, err, net.ErrClosed)
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	assert.ErrorIs(t, m.AddFile("closed", f), os.ErrClosed)
	_, err = m.File("closed")
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestUnknownNetworksAreRefused(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	for _, network := range []string{"", "udp", "tcp5", "unixgram", "TCP"} {
		_, err := m.Listen("web", network, anywhere)
		var unknown net.UnknownNetworkError
		assert.ErrorAs(t, err, &unknown, network)
	}
	_, err := m.ListenPacket("web", "tcp", anywhere)
	assert.Error(t, err)
	_, err = m.Listen("web", "tcp", anywhere)
	assert.NoError(t, err)
}

func TestAStateThatCouldNotBeLoadedIsRefusedOnTheFirstRun(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	var number int
	var nothing *int
	for name, s := range map[string]State{
		"nil":                   nil,
		"Gob of a value":        Gob(number),
		"Gob of nil":            Gob(nil),
		"Gob of a nil pointer":  Gob(nothing),
		"JSON of a value":       JSON(number),
		"JSON of a map":         JSON(map[string]int{}),
		"JSON of a nil pointer": JSON(nothing),
		"Bytes of nil":          Bytes(nil),
		"no lock":               Locked(nil, Gob(&number)),
		"a lock over nothing":   Locked(new(sync.Mutex), nil),
		"a lock over a value":   Locked(new(sync.Mutex), Gob(number)),
	} {
		assert.Error(t, m.State(name, s), name)
	}
	assert.NoError(t, m.State("Gob", Gob(&number)))
	assert.NoError(t, m.State("JSON", Locked(new(sync.Mutex), JSON(&number))))
	assert.NoError(t, m.State("Bytes", Bytes(new([]byte))))
}

func TestCallsInTheWrongOrderSaySo(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	assert.ErrorIs(t, m.Split(t.Context()), ErrNotReady)
	assert.ErrorIs(t, m.Wait(t.Context()), ErrNotReady)
	assert.ErrorIs(t, m.Remove("nothing"), ErrNotFound)

	require.NoError(t, m.Ready(t.Context()))
	assert.ErrorContains(t, m.Ready(t.Context()), "before")
	assert.ErrorIs(t, m.State("late", JSON(new(int))), ErrTooLate)
	assert.Equal(t, 1, m.Generation())
	select {
	case <-m.Done():
		assert.Fail(t, "its part is not over")
	default:
	}

	require.NoError(t, m.Close())
	assert.ErrorIs(t, m.Close(), ErrClosed)
	assert.ErrorIs(t, m.Split(t.Context()), ErrClosed)
	assert.ErrorIs(t, m.Wait(t.Context()), ErrClosed)
	assert.ErrorIs(t, m.State("late", JSON(new(int))), ErrClosed)
	_, err := m.Listen("web", "tcp", anywhere)
	assert.ErrorIs(t, err, ErrClosed)
	assert.ErrorIs(t, m.Remove("web"), ErrClosed)
	<-m.Done()

	m = newTestRegistry(t)
	require.NoError(t, m.Close())
	assert.ErrorIs(t, m.Ready(t.Context()), ErrClosed)
}

func TestNegativeLimitsAreRefused(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]Options{
		"ReadyTimeout":  {ReadyTimeout: -1},
		"FreezeTimeout": {FreezeTimeout: -1},
		"StateTimeout":  {StateTimeout: -1},
		"CommitTimeout": {CommitTimeout: -1},
	} {
		_, err := newInProcess(options, inheritance{})
		assert.ErrorContains(t, err, name)
	}
}

func TestAProcessHasOneOpenRegistry(t *testing.T) {
	options := Options{SplitSignals: []os.Signal{}, StopSignals: []os.Signal{}, Logger: slog.New(slog.DiscardHandler)}
	m, err := Init(options)
	require.NoError(t, err)
	_, err = Init(options)
	assert.ErrorContains(t, err, "already")
	require.NoError(t, m.Close())
	_, err = Init(Options{ReadyTimeout: -1})
	assert.Error(t, err)
	m, err = Init(options)
	require.NoError(t, err, "a failed Init is none")
	require.NoError(t, m.Close())
}

func TestNothingIsAcceptedOrReadBeforeReady(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	ln, err := m.Listen("web", "tcp", anywhere)
	require.NoError(t, err)
	pc, err := m.ListenPacket("packets", "udp", anywhere)
	require.NoError(t, err)
	require.NoError(t, ln.(*Listener).SetDeadline(time.Now().Add(-time.Hour)), "it counts from Ready on")
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	sender, err := net.Dial("udp", pc.LocalAddr().String())
	require.NoError(t, err)
	defer sender.Close()
	_, err = sender.Write([]byte("a"))
	require.NoError(t, err)

	accepted, received := make(chan error, 1), make(chan string, 1)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	go func() {
		b := make([]byte, 9)
		n, _, _ := pc.ReadFrom(b)
		received <- string(b[:n])
	}()
	assert.Empty(t, accepted)
	assert.Empty(t, received)
	_, err = m.Listen("late", "tcp", anywhere) // takes its time, as the two would
	require.NoError(t, err)
	assert.Empty(t, accepted)
	assert.Empty(t, received)

	require.NoError(t, m.Ready(t.Context()))
	assert.ErrorIs(t, <-accepted, os.ErrDeadlineExceeded)
	assert.Equal(t, "a", <-received)
	require.NoError(t, ln.(*Listener).SetDeadline(time.Time{}))
	c, err := ln.Accept()
	require.NoError(t, err)
	c.Close()

	waiting := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		waiting <- err
	}()
	require.NoError(t, ln.Close())
	err = <-waiting
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.NotErrorIs(t, err, ErrSuperseded)
	var operation *net.OpError
	require.ErrorAs(t, err, &operation)
	assert.Equal(t, "accept", operation.Op)
}

func TestAPacketConnHasTheMethodsOfUDP(t *testing.T) {
	t.Parallel()
	m := newTestRegistry(t)
	opened, err := m.ListenPacket("udp", "udp", anywhere)
	require.NoError(t, err)
	require.NoError(t, m.Ready(t.Context()))
	p := opened.(*PacketConn)
	assert.Equal(t, "udp", p.Name())
	assert.NoError(t, p.SetReadBuffer(1<<16))
	assert.NoError(t, p.SetWriteBuffer(1<<16))
	self := p.LocalAddr().(*net.UDPAddr)
	b := make([]byte, 9)

	_, err = p.WriteToUDPAddrPort([]byte("one"), self.AddrPort())
	require.NoError(t, err)
	n, from, err := p.ReadFromUDPAddrPort(b)
	require.NoError(t, err)
	assert.Equal(t, "one", string(b[:n]))
	assert.Equal(t, self.AddrPort().Port(), from.Port())

	_, _, err = p.WriteMsgUDP([]byte("two"), nil, self)
	require.NoError(t, err)
	n, _, _, _, err = p.ReadMsgUDP(b, nil)
	require.NoError(t, err)
	assert.Equal(t, "two", string(b[:n]))

	require.NoError(t, p.SetDeadline(time.Now().Add(-time.Second)))
	_, _, err = p.ReadFrom(b)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = p.WriteTo(b, self)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, p.SetWriteDeadline(time.Time{}))
	_, err = p.WriteTo(b, self)
	assert.NoError(t, err)
}

func TestAPathIsMadeAbsoluteWhenTheOptionsAreRead(t *testing.T) {
	t.Parallel()
	m, err := newInProcess(Options{PIDFile: "pid", Logger: slog.New(slog.DiscardHandler)}, inheritance{})
	require.NoError(t, err)
	defer m.Close()
	assert.True(t, filepath.IsAbs(m.options.PIDFile))
}
