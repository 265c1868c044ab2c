//go:build linux

package mitosis_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

func sha(b []byte) string { return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b)) }

// pair returns the two ends of a TCP connection.
func pair(t testing.TB, network string) (net.Conn, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network != "tcp" {
		address = filepath.Join(t.TempDir(), "pair.sock")
	}
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	defer ln.Close()
	a, err := net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	b, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// deadline is one for what has to come.
func deadline() time.Time { return time.Now().Add(within) }

func names(conns []*mitosis.Conn) (list []string) {
	for _, c := range conns {
		list = append(list, c.Name())
	}
	return list
}

func TestConnsAreInTheOrderOfTheirNamesWhoeverHasThem(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	for _, name := range []string{"b/2", "a", "b/10", "c", "b/1", "b"} {
		connect(t, m, name, "tcp")
	}
	assert.Equal(t, []string{"a", "b", "b/1", "b/10", "b/2", "c"}, names(m.Conns("")))
	assert.Equal(t, []string{"b/1", "b/10", "b/2"}, names(m.Conns("b/")))
	m = split(t, m)
	connect(t, m, "b/0", "tcp")
	inherited, err := m.Conn("b/2")
	require.NoError(t, err)
	assert.Equal(t, []string{"b/0", "b/1", "b/10", "b/2"}, names(m.Conns("b/")))
	assert.Same(t, inherited, m.Conns("b/2")[0], "always the same one")
	require.NoError(t, inherited.Close())
	assert.Equal(t, []string{"b/0", "b/1", "b/10"}, names(m.Conns("b/")))
	assert.Empty(t, m.Conns("d"))
	_, err = m.Conn("b/2")
	assert.ErrorIs(t, err, mitosis.ErrNotFound)
}

func TestNamesOfConnsAreTakenOnce(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	connect(t, m, "conn", "tcp")
	ln, err := m.Listen("listener", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	spare, _ := pair(t, "tcp")
	refuse := func(m *mitosis.Registry, name string) {
		t.Helper()
		_, err := m.AddConn(name, spare)
		assert.ErrorIs(t, err, mitosis.ErrNameTaken)
		assert.ErrorContains(t, err, fmt.Sprintf("%q", name))
	}
	refuse(m, "conn")
	refuse(m, "listener")
	_, err = m.Dial(t.Context(), "conn", "tcp", ln.Addr().String())
	assert.ErrorIs(t, err, mitosis.ErrNameTaken)
	_, err = m.Listen("conn", "tcp", "127.0.0.1:0")
	assert.ErrorIs(t, err, mitosis.ErrNameTaken)
	for _, name := range []string{"", "\n", string(make([]byte, 256))} {
		_, err = m.AddConn(name, spare)
		assert.ErrorIs(t, err, mitosis.ErrInvalidName)
	}
	m = split(t, m)
	refuse(m, "conn") // nobody has asked for it yet
	_, err = m.Listen("conn", "tcp", "127.0.0.1:0")
	assert.ErrorIs(t, err, mitosis.ErrNameTaken)
	c, err := m.Conn("conn")
	require.NoError(t, err)
	refuse(m, "conn")
	require.NoError(t, c.Close())
	_, err = m.AddConn("conn", spare)
	require.NoError(t, err)
	require.NoError(t, second(io.WriteString(spare, "it was the caller's all the time")))
}

func TestDialReturnsTheInheritedConnectionOfItsAddressOnly(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	var listeners []net.Listener
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		listeners = append(listeners, ln)
	}
	_, err := m.Dial(t.Context(), "c", "tcp", listeners[0].Addr().String())
	require.NoError(t, err)
	first, err := listeners[0].Accept()
	require.NoError(t, err)
	m = split(t, m)
	c, err := m.Dial(t.Context(), "c", "tcp", listeners[0].Addr().String())
	require.NoError(t, err)
	assert.True(t, c.Inherited())
	assert.Equal(t, first.LocalAddr(), c.RemoteAddr())

	m = split(t, m)
	_, err = m.Dial(t.Context(), "c", "tcp", "127.0.0.1:0") // nobody is there: nothing happens
	require.Error(t, err)
	require.NoError(t, second(io.WriteString(first, "x")))
	require.NoError(t, listeners[1].(*net.TCPListener).SetDeadline(deadline()))
	c, err = m.Dial(t.Context(), "c", "tcp", listeners[1].Addr().String())
	require.NoError(t, err, "a Dial that failed leaves all as it was")
	assert.False(t, c.Inherited())
	peer, err := listeners[1].Accept()
	require.NoError(t, err)
	defer peer.Close()
	first.SetReadDeadline(deadline())
	_, err = first.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the inherited one is closed")
	m = split(t, m)
	c, err = m.Dial(t.Context(), "c", "tcp", listeners[1].Addr().String())
	require.NoError(t, err)
	assert.True(t, c.Inherited())
	for _, network := range []string{"udp", "unixpacket", "unixgram", ""} {
		_, err = m.Dial(t.Context(), "d", network, listeners[1].Addr().String())
		assert.ErrorAs(t, err, new(net.UnknownNetworkError))
	}
}

func TestThereAreNoConnsBeforeReady(t *testing.T) {
	t.Parallel()
	spare, _ := pair(t, "tcp")
	check := func(m *mitosis.Registry) {
		_, err := m.Conn("c")
		assert.ErrorIs(t, err, mitosis.ErrNotReady)
		_, err = m.AddConn("d", spare)
		assert.ErrorIs(t, err, mitosis.ErrNotReady)
		_, err = m.Dial(context.Background(), "d", "tcp", spare.RemoteAddr().String())
		assert.ErrorIs(t, err, mitosis.ErrNotReady)
		assert.Empty(t, m.Conns(""))
	}
	m := mitosistest.New(t, quiet)
	check(m)
	require.NoError(t, m.Ready(t.Context()))
	connect(t, m, "c", "tcp")
	next, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error {
		check(m)
		return m.Ready(context.Background())
	})
	require.NoError(t, err)
	assert.Equal(t, []string{"c"}, names(next.Conns("")))
	require.NoError(t, next.Close())
	_, err = next.Conn("c")
	assert.ErrorIs(t, err, mitosis.ErrClosed)
	assert.Empty(t, next.Conns(""))
	_, err = next.AddConn("d", spare)
	assert.ErrorIs(t, err, mitosis.ErrClosed)
}

func TestConnectionsThatNobodyAsksForGoOn(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	c.Unread([]byte("one "))
	io.WriteString(peer, "two ")
	for range 3 {
		m = split(t, m)
		failSplit(t, m)
	}
	require.Equal(t, 4, m.Generation())
	c, err := m.Conn("c")
	require.NoError(t, err)
	io.WriteString(peer, "three")
	peer.Close()
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "one two three", string(all))
}

func TestUnreadBytesAreReadFirstInEveryGeneration(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	b := []byte("two ")
	c.Unread(b)
	copy(b, "xxxx") // it was copied
	c.Unread([]byte("one "))
	io.WriteString(peer, "three")
	failSplit(t, m)
	word := make([]byte, 4)
	_, err := io.ReadFull(c, word)
	require.NoError(t, err)
	require.Equal(t, "one ", string(word))
	c.Unread([]byte("ONE "))
	require.NoError(t, c.Mark(nil))
	m = split(t, m)
	c, err = m.Conn("c")
	require.NoError(t, err)
	peer.Close()
	all, err := io.ReadAll(c.Reader())
	require.NoError(t, err)
	require.Equal(t, "ONE two three", string(all))
}

func TestARemovedConnectionStaysWhereItIs(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	_, unclaimed := connect(t, m, "unclaimed", "tcp")
	require.NoError(t, m.Remove("c"))
	assert.ErrorIs(t, m.Remove("c"), mitosis.ErrNotFound)
	next := split(t, m)
	assert.ErrorIs(t, m.Remove("unclaimed"), mitosis.ErrSuperseded)
	_, err := next.Conn("c")
	assert.ErrorIs(t, err, mitosis.ErrNotFound)
	require.NoError(t, second(io.WriteString(c, "from the old generation")))
	require.NoError(t, c.Close())
	all, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, "from the old generation", string(all))
	require.NoError(t, next.Remove("unclaimed"))
	unclaimed.SetReadDeadline(deadline())
	_, err = unclaimed.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}

func TestWhatCannotTravelIsRefused(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, _ := pair(t, "tcp")
	closed, _ := pair(t, "tcp")
	closed.Close()
	packets, _ := pair(t, "unixpacket")
	pipe, _ := net.Pipe()
	managed, _ := connect(t, m, "managed", "tcp")
	for _, refused := range []struct {
		name string
		conn net.Conn
		err  error
	}{
		{"closed", closed, net.ErrClosed},
		{"TLS", tls.Client(c, &tls.Config{InsecureSkipVerify: true}), mitosis.ErrNotTransferable},
		{"unixpacket", packets, mitosis.ErrNotTransferable},
		{"pipe", pipe, mitosis.ErrNotTransferable},
		{"nil", nil, mitosis.ErrNotTransferable},
		{"nil TCP", (*net.TCPConn)(nil), mitosis.ErrNotTransferable},
		{"zero TCP", &net.TCPConn{}, mitosis.ErrNotTransferable},
		{"managed", managed, mitosis.ErrNameTaken},
	} {
		_, err := m.AddConn("name of "+refused.name, refused.conn)
		assert.ErrorIs(t, err, refused.err, refused.name)
		assert.ErrorContains(t, err, `"name of `+refused.name+`"`)
	}
	_, err := m.AddConn("name", c) // it is still the caller's
	require.NoError(t, err)
	assert.Equal(t, []string{"managed", "name"}, names(split(t, m).Conns("")))
}

// A file is sent by the kernel, cut again and again. The file itself travels too,
// and its offset says how far it came.
func TestAFileIsSentOnceThroughSplits(t *testing.T) {
	t.Parallel()
	for _, limited := range []bool{false, true} {
		t.Run(fmt.Sprint("limited ", limited), func(t *testing.T) {
			t.Parallel()
			content := make([]byte, 24<<20)
			rand.NewChaCha8([32]byte{7}).Read(content)
			path := filepath.Join(t.TempDir(), "content")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			file, err := os.Open(path)
			require.NoError(t, err)
			m := start(t, quiet)
			require.NoError(t, m.AddFile("file", file))
			c, peer := connect(t, m, "c", "tcp")
			left := int64(len(content)) - 12345
			if !limited {
				left = int64(len(content))
			}
			want := content[:left]
			received := make([]byte, 0, len(content))
			sendFile := func(c *mitosis.Conn, file *os.File) <-chan error {
				done := make(chan error, 1)
				go func() {
					var src io.Reader = file
					if limited {
						src = io.LimitReader(file, left)
					}
					n, err := c.ReadFrom(src)
					left -= n
					done <- err
				}()
				return done
			}
			done := sendFile(c, file)
			interruptions := 0
			for len(received) < len(want) {
				b := make([]byte, min(3<<20, len(want)-len(received)))
				peer.SetReadDeadline(deadline())
				n, err := io.ReadFull(peer, b)
				received = append(received, b[:n]...)
				require.NoError(t, err)
				failSplit(t, m)
				next, err := mitosistest.Split(t, m, func(m *mitosis.Registry) (err error) {
					if file, err = m.File("file"); err != nil {
						return err
					}
					return m.Ready(context.Background())
				})
				require.NoError(t, err)
				if err := <-done; err != nil {
					require.ErrorIs(t, err, mitosis.ErrSuperseded)
					interruptions++
				}
				m = next
				c, err = m.Conn("c")
				require.NoError(t, err)
				done = sendFile(c, file)
			}
			require.NoError(t, <-done)
			require.Positive(t, interruptions)
			require.EqualValues(t, 0, left)
			require.Equal(t, sha(want), sha(received))
			c.Close()
			rest, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.Empty(t, rest)
		})
	}
}

// A pipe is a file from which bytes come when they come, and can be read only once.
func TestAPipeAsTheSourceOfReadFromHoldsNothingUp(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := c.ReadFrom(r)
		copied <- err
	}()
	var sent, received []byte
	b := make([]byte, 10_000)
	for i := range 5 {
		text := bytes.Repeat([]byte{byte('a' + i)}, 1000*i+1)
		sent = append(sent, text...)
		require.NoError(t, second(w.Write(text)))
		peer.SetReadDeadline(deadline())
		_, err := io.ReadFull(peer, b[:len(text)])
		require.NoError(t, err)
		received = append(received, b[:len(text)]...)
		failSplit(t, m)
	}
	w.Close()
	require.NoError(t, <-copied)
	require.Equal(t, sha(sent), sha(received))
}

// The kernel moves the bytes from one connection to another, and a cut interrupts it.
func TestBytesSplicedToAnotherConnectionArriveOnceThroughSplits(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	to, sink := pair(t, "tcp")
	content := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{8}).Read(content)
	received := make(chan []byte, 1)
	go func() {
		b := make([]byte, len(content))
		n, _ := io.ReadFull(sink, b)
		received <- b[:n]
	}()
	const stretches = 8
	c.Unread(content[:10])
	for i := range stretches {
		done := make(chan error, 1)
		go func() { done <- second(c.WriteTo(to)) }()
		part := content[max(10, len(content)*i/stretches) : len(content)*(i+1)/stretches]
		require.NoError(t, second(peer.Write(part[:len(part)/2])))
		failSplit(t, m)
		require.Empty(t, done, "it goes on")
		require.NoError(t, second(peer.Write(part[len(part)/2:])))
		failSplit(t, m)
		m = split(t, m)
		require.ErrorIs(t, <-done, mitosis.ErrSuperseded)
		var err error
		c, err = m.Conn("c")
		require.NoError(t, err)
	}
	peer.Close()
	require.NoError(t, second(c.WriteTo(to)))
	require.Equal(t, sha(content), sha(<-received))
}
