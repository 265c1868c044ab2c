//go:build linux

package mitosis_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// within is how long something may take that has to come.
const within = 10 * time.Second

var errOnPurpose = errors.New("on purpose")

// cutState is a state in whose Load, when everything stands still, something is done.
type cutState struct{ during func() error }

func (cutState) Save(io.Writer) error { return nil }

func (s cutState) Load(r io.Reader) error {
	if s.during == nil {
		return nil
	}
	return s.during()
}

// startForCuts is start, with a state that lets cut look into the cut.
func startForCuts(t testing.TB, options mitosis.Options) *mitosis.Registry {
	t.Helper()
	m := mitosistest.New(t, options)
	require.NoError(t, m.State("cut", cutState{}))
	require.NoError(t, m.Ready(t.Context()))
	return m
}

// cut splits, and does something during the cut. The split fails if that does.
func cut(t testing.TB, m *mitosis.Registry, during func() error) (*mitosis.Registry, error) {
	t.Helper()
	return mitosistest.Split(t, m, func(m *mitosis.Registry) error {
		if err := m.State("cut", cutState{during}); err != nil {
			return err
		}
		return m.Ready(context.Background())
	})
}

// failCut splits, does something during the cut, and lets the split fail.
func failCut(t testing.TB, m *mitosis.Registry, during func()) {
	t.Helper()
	_, err := cut(t, m, func() error { during(); return errOnPurpose })
	require.ErrorIs(t, err, mitosis.ErrRefused)
	require.ErrorContains(t, err, errOnPurpose.Error())
}

// inherit returns a connection in the next generation.
func inherit(t testing.TB, m *mitosis.Registry, name string) *mitosis.Conn {
	t.Helper()
	c, err := m.Conn(name)
	require.NoError(t, err)
	require.True(t, c.Inherited())
	bounded(t, c)
	return c
}

// bounded lets nothing on c last for ever.
func bounded(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(within)))
	return c
}

// receive returns what comes, or fails after a while.
func receive[T any](t testing.TB, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(within):
		require.FailNow(t, "waited in vain for "+what)
	}
	return v
}

// awaitTaken waits until everything that peer has written has been read on c.
func awaitTaken(t testing.TB, peer, c syscall.Conn) {
	t.Helper()
	pending := func(c syscall.Conn, request uint) int {
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		n := 0
		require.NoError(t, raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), request) }))
		require.NoError(t, err)
		return n
	}
	require.Eventually(t, func() bool {
		return pending(peer, unix.TIOCOUTQ) == 0 && pending(c, unix.TIOCINQ) == 0
	}, within, 50*time.Microsecond)
}

// result is what a read returned.
type result struct {
	text string
	err  error
}

func reading(read func() (string, error)) <-chan result {
	results := make(chan result, 1)
	go func() {
		text, err := read()
		results <- result{text, err}
	}()
	return results
}

func readSome(c net.Conn) func() (string, error) {
	return func() (string, error) {
		b := make([]byte, 1000)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
}

func TestHalfClosedDirectionsStayAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network+", the peer has closed its side, unnoticed", func(t *testing.T) {
			t.Parallel()
			m := start(t, quiet)
			_, peer := connect(t, m, "c", network)
			io.WriteString(peer, "the last words")
			require.NoError(t, peer.(interface{ CloseWrite() error }).CloseWrite())
			c := inherit(t, split(t, m), "c")
			all, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "the last words", string(all))
			_, err = io.WriteString(c, "the answer")
			require.NoError(t, err)
			require.NoError(t, c.CloseWrite())
			all, err = io.ReadAll(bounded(t, peer))
			require.NoError(t, err)
			require.Equal(t, "the answer", string(all))
		})
		t.Run(network+", the peer has closed its side, and we know", func(t *testing.T) {
			t.Parallel()
			m := start(t, quiet)
			c, peer := connect(t, m, "c", network)
			io.WriteString(peer, "line\nno line")
			require.NoError(t, peer.(interface{ CloseWrite() error }).CloseWrite())
			bounded(t, c)
			for _, want := range []string{"line\n", "no line", ""} {
				line, err := c.Reader().ReadString('\n')
				require.Equal(t, want, line)
				require.Equal(t, want != "line\n", err == io.EOF)
			}
			failSplit(t, m)
			c = inherit(t, split(t, m), "c")
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			_, err = io.WriteString(c, "the answer")
			require.NoError(t, err)
			require.NoError(t, c.Close())
			all, err := io.ReadAll(bounded(t, peer))
			require.NoError(t, err)
			require.Equal(t, "the answer", string(all))
		})
		t.Run(network+", we have closed ours", func(t *testing.T) {
			t.Parallel()
			m := start(t, quiet)
			c, peer := connect(t, m, "c", network)
			_, err := io.WriteString(c, "request")
			require.NoError(t, err)
			require.NoError(t, c.CloseWrite())
			c = inherit(t, split(t, m), "c")
			all, err := io.ReadAll(bounded(t, peer))
			require.NoError(t, err)
			require.Equal(t, "request", string(all))
			_, err = io.WriteString(peer, "response")
			require.NoError(t, err)
			peer.Close()
			all, err = io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "response", string(all))
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
		})
	}
}

func TestAPeerThatClosesDuringTheCut(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		leave := func(peer net.Conn) {
			io.WriteString(peer, "bye")
			peer.Close()
		}
		t.Run(network+", is noticed by the next generation", func(t *testing.T) {
			t.Parallel()
			m := startForCuts(t, quiet)
			c, peer := connect(t, m, "c", network)
			waiting := reading(readSome(c))
			m, err := cut(t, m, func() error { leave(peer); return nil })
			require.NoError(t, err)
			old := receive(t, waiting, "the old reader")
			assert.Empty(t, old.text)
			assert.ErrorIs(t, old.err, mitosis.ErrSuperseded)
			all, err := io.ReadAll(inherit(t, m, "c"))
			require.NoError(t, err)
			require.Equal(t, "bye", string(all))
		})
		t.Run(network+", is noticed by the old one if the split fails", func(t *testing.T) {
			t.Parallel()
			m := startForCuts(t, quiet)
			c, peer := connect(t, m, "c", network)
			waiting := reading(func() (string, error) {
				all, err := io.ReadAll(c)
				return string(all), err
			})
			failCut(t, m, func() { leave(peer) })
			assert.Equal(t, result{"bye", nil}, receive(t, waiting, "the reader"))
		})
	}
}

func TestAHalfLineTravels(t *testing.T) {
	t.Parallel()
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	io.WriteString(peer, "one\nha")
	for _, part := range []string{"lf", "", " a", " line"} {
		waiting := reading(func() (string, error) {
			for {
				line, err := c.Reader().ReadString('\n')
				if err != nil || line != "one\n" {
					return line, err
				}
			}
		})
		awaitTaken(t, peer.(syscall.Conn), c)
		failSplit(t, m)
		m = split(t, m)
		require.ErrorIs(t, receive(t, waiting, "the old reader").err, mitosis.ErrSuperseded)
		c = inherit(t, m, "c")
		io.WriteString(peer, part)
	}
	io.WriteString(peer, "\ntwo\n")
	for _, want := range []string{"half a line\n", "two\n"} {
		line, err := c.Reader().ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want, line)
	}
}

// The buffer of Reader has 4093 bytes. Lines are cut at and around every place where
// the buffer is full.
func TestALineLongerThanTheBufferTravelsFromEveryPlace(t *testing.T) {
	t.Parallel()
	const buffer = 4093
	ways := map[string]func(*mitosis.Conn) (string, error){
		"ReadString": func(c *mitosis.Conn) (string, error) { return c.Reader().ReadString('\n') },
		"ReadBytes": func(c *mitosis.Conn) (string, error) {
			b, err := c.Reader().ReadBytes('\n')
			return string(b), err
		},
		"ReadLine": func(c *mitosis.Conn) (string, error) {
			b, err := (&textproto.Reader{R: c.Reader()}).ReadLineBytes()
			if err == nil {
				_, err = c.Write(nil) // it may be half a line
			}
			return string(b) + "\n", err
		},
	}
	for way, read := range ways {
		for _, before := range []string{"", "a short line\n"} {
			for _, length := range []int{buffer - 2, buffer - 1, buffer, buffer + 1, 2*buffer - 1, 2 * buffer, 2*buffer + 1, 20_000} {
				t.Run(fmt.Sprint(way, " of ", length, " bytes after ", len(before)), func(t *testing.T) {
					t.Parallel()
					source := rand.New(rand.NewPCG(uint64(length), 1))
					var text strings.Builder
					for text.Len() < length {
						text.WriteByte(byte('a' + source.IntN(26)))
					}
					// Carriage returns at the ends of full buffers, which ReadLine puts back.
					line := []byte(text.String())
					for i := buffer - 1; i < len(line)-1; i += buffer {
						line[i] = '\r'
					}
					sent := before + string(line) + "\nthe next\n"
					want := sent
					places := map[int]bool{}
					for i := 0; i < len(sent); i += buffer {
						for _, start := range []int{0, len(before)} {
							for _, d := range []int{-2, -1, 0, 1, 2000} {
								places[start+i+d] = true
							}
						}
					}
					m := start(t, quiet)
					c, peer := connect(t, m, "c", "tcp")
					var got strings.Builder
					readAll := func(c *mitosis.Conn) <-chan result {
						return reading(func() (string, error) {
							for got.Len() < len(want) {
								line, err := read(c)
								if err != nil {
									return "", err
								}
								got.WriteString(line)
							}
							return "", nil
						})
					}
					waiting := readAll(c)
					from := 0
					for to := range sent {
						if !places[to] || to <= from {
							continue
						}
						_, err := io.WriteString(peer, sent[from:to])
						require.NoError(t, err)
						from = to
						awaitTaken(t, peer.(syscall.Conn), c)
						if source.IntN(3) == 0 {
							failSplit(t, m)
						}
						m = split(t, m)
						require.ErrorIs(t, receive(t, waiting, "the old reader").err, mitosis.ErrSuperseded)
						c = inherit(t, m, "c")
						waiting = readAll(c)
					}
					io.WriteString(peer, sent[from:])
					require.NoError(t, receive(t, waiting, "the last line").err)
					require.True(t, want == got.String(), "%d bytes of %d", got.Len(), len(want))
				})
			}
		}
	}
}

// Messages are a length and a body, each read with io.ReadFull from Reader.
func TestMessagesWithALengthTravelWhole(t *testing.T) {
	t.Parallel()
	const messages = 4000
	serve := func(c *mitosis.Conn) error {
		if err := c.Mark(nil); err != nil {
			return err
		}
		for {
			message := make([]byte, 4)
			if _, err := io.ReadFull(c.Reader(), message); err != nil {
				return err
			}
			message = append(message, make([]byte, binary.BigEndian.Uint32(message))...)
			if _, err := io.ReadFull(c.Reader(), message[4:]); err != nil {
				return err
			}
			if _, err := c.Write(message); err != nil {
				return err
			}
			if err := c.Mark(nil); err != nil {
				return err
			}
		}
	}
	m := start(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	var sent []byte
	source := rand.New(rand.NewPCG(3, 4))
	for i := range messages {
		size := source.IntN(200)
		if i%50 == 0 {
			size = source.IntN(20_000)
		}
		sent = binary.BigEndian.AppendUint32(sent, uint32(size))
		for range size {
			sent = append(sent, byte(source.Uint32()))
		}
	}
	permits := make(chan struct{})
	go func() { // one stretch for each generation, never whole messages
		const stretches = 30
		for i := range stretches {
			peer.Write(sent[len(sent)*i/stretches : len(sent)*(i+1)/stretches])
			<-permits
		}
	}()
	received := make(chan []byte, 1)
	go func() {
		b := make([]byte, len(sent))
		n, _ := io.ReadFull(peer, b)
		received <- b[:n]
	}()
	for {
		served := make(chan error, 1)
		go func() { served <- serve(c) }()
		select {
		case b := <-received:
			require.Equal(t, sha(sent), sha(b))
			require.Greater(t, m.Generation(), 29)
			c.Close()
			require.ErrorIs(t, receive(t, served, "the reader"), net.ErrClosed)
			return
		case permits <- struct{}{}:
		}
		failSplit(t, m)
		m = split(t, m)
		require.ErrorIs(t, receive(t, served, "the old reader"), mitosis.ErrSuperseded)
		var err error
		c, err = m.Conn("c")
		require.NoError(t, err)
	}
}

func TestAReaderThatDoesNotComeBackFailsTheSplitAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"read", "reader", "mark"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			options := quiet
			options.FreezeTimeout = 100 * time.Millisecond
			m := start(t, options)
			ln, err := m.Listen("web", "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			stuck, itsPeer := connect(t, m, "the stuck one", "tcp")
			other, peer := connect(t, m, "other", "tcp")
			echoed := make(chan struct{})
			go func() { defer close(echoed); echo(other, "reader") }()
			if way == "mark" {
				require.NoError(t, stuck.Mark(nil))
			}
			io.WriteString(itsPeer, "message\n")
			bounded(t, stuck)
			if way == "reader" {
				_, err = stuck.Reader().ReadString('\n')
			} else {
				_, err = io.ReadFull(stuck, make([]byte, len("message\n")))
			}
			require.NoError(t, err)
			_, err = mitosistest.Split(t, m, func(m *mitosis.Registry) error { return m.Ready(context.Background()) })
			require.ErrorIs(t, err, mitosis.ErrTimeout)
			require.ErrorContains(t, err, `"the stuck one"`)
			require.NotContains(t, err.Error(), `"other"`)

			// All goes on.
			bounded(t, peer)
			io.WriteString(peer, "hello\n")
			_, err = io.ReadFull(peer, make([]byte, len("hello\n")))
			require.NoError(t, err)
			_, err = io.WriteString(stuck, "answer")
			require.NoError(t, err)
			_, err = io.ReadFull(bounded(t, itsPeer), make([]byte, len("answer")))
			require.NoError(t, err)
			accepted := make(chan error, 1)
			go func() {
				c, err := ln.Accept()
				if err == nil {
					c.Close()
				}
				accepted <- err
			}()
			client, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			client.Close()
			require.NoError(t, receive(t, accepted, "Accept"))

			// When it is back the next split succeeds.
			back := reading(func() (string, error) {
				if way == "mark" {
					stuck.Mark(nil)
				}
				if way == "reader" {
					return stuck.Reader().ReadString('\n')
				}
				return readSome(stuck)()
			})
			var next *mitosis.Registry
			require.Eventually(t, func() bool { // it may not be back yet
				next, err = mitosistest.Split(t, m, func(m *mitosis.Registry) error { return m.Ready(context.Background()) })
				return err == nil
			}, within, time.Millisecond)
			require.ErrorIs(t, receive(t, back, "the old reader").err, mitosis.ErrSuperseded)
			receive(t, echoed, "the old reader")
			io.WriteString(itsPeer, "the second\n")
			text, err := inherit(t, next, "the stuck one").Reader().ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "the second\n", text)
		})
	}
}

func TestAConnectionThatIsOnlyWrittenHoldsNothingUp(t *testing.T) {
	t.Parallel()
	options := quiet
	options.FreezeTimeout = 2 * time.Second
	m := start(t, options)
	c, peer := connect(t, m, "c", "tcp")
	io.WriteString(peer, "nobody reads this") // and it stays where it is
	received := make(chan error, 1)
	const lines = 20_000
	go func() {
		in := bufio.NewReader(peer)
		for i := range lines {
			line, err := in.ReadString('\n')
			if err == nil && line != fmt.Sprintln(i) {
				err = fmt.Errorf("%q in place of %d", line, i)
			}
			if err != nil {
				received <- err
				return
			}
		}
		received <- nil
	}()
	next := 0
	for range 20 {
		begun := make(chan struct{})
		written := make(chan error, 1)
		go func() {
			started := sync.OnceFunc(func() { close(begun) })
			for until := min(lines, next+lines/10); next < until; next++ {
				if _, err := fmt.Fprintln(c, next); err != nil {
					written <- err
					return
				}
				started()
			}
			written <- nil
		}()
		select {
		case <-begun:
		case err := <-written:
			require.NoError(t, err)
			written <- nil
		}
		failSplit(t, m)
		m = split(t, m)
		if err := receive(t, written, "the old writer"); err != nil {
			require.ErrorIs(t, err, mitosis.ErrSuperseded)
		}
		var err error
		c, err = m.Conn("c")
		require.NoError(t, err)
	}
	for ; next < lines; next++ {
		fmt.Fprintln(c, next)
	}
	require.NoError(t, receive(t, received, "the lines"))
	text, err := readSome(bounded(t, c))()
	require.NoError(t, err)
	require.Equal(t, "nobody reads this", text)
}

func TestDeadlinesTravel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		deadline func() time.Time
		expired  bool
	}{
		{"none", func() time.Time { return time.Time{} }, false},
		{"in an hour", func() time.Time { return time.Now().Add(time.Hour) }, false},
		{"in a thousand years", func() time.Time { return time.Now().AddDate(1000, 0, 0) }, false},
		{"a second ago", func() time.Time { return time.Now().Add(-time.Second) }, true},
		{"in 1970", func() time.Time { return time.Unix(0, 0) }, true},
		{"in the year 1", func() time.Time { return time.Time{}.Add(1) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := start(t, quiet)
			read, readPeer := connect(t, m, "read", "tcp")
			write, _ := connect(t, m, "write", "tcp")
			require.NoError(t, read.SetReadDeadline(c.deadline()))
			require.NoError(t, write.SetWriteDeadline(c.deadline()))
			check := func(read, write *mitosis.Conn, text string) {
				io.WriteString(readPeer, text)
				_, err := io.ReadFull(read, make([]byte, len(text)))
				assert.Equal(t, c.expired, errors.Is(err, os.ErrDeadlineExceeded), "read: %v", err)
				_, err = read.Write([]byte(text))
				assert.NoError(t, err)
				_, err = write.Write([]byte(text))
				assert.Equal(t, c.expired, errors.Is(err, os.ErrDeadlineExceeded), "write: %v", err)
				assert.NoError(t, read.SetReadDeadline(c.deadline())) // what was read has been dealt with
				assert.NoError(t, read.Mark(nil))
			}
			check(read, write, "first")
			for range 2 {
				m = split(t, m)
				read, err := m.Conn("read")
				require.NoError(t, err)
				write, err := m.Conn("write")
				require.NoError(t, err)
				check(read, write, "again")
			}
		})
	}
	t.Run("to the moment", func(t *testing.T) {
		t.Parallel()
		m := start(t, quiet)
		c, _ := connect(t, m, "c", "tcp")
		deadline := time.Now().Add(300 * time.Millisecond)
		require.NoError(t, c.SetReadDeadline(deadline))
		m = split(t, m)
		next, err := m.Conn("c")
		require.NoError(t, err)
		got := receive(t, reading(readSome(next)), "the deadline")
		require.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
		require.False(t, time.Now().Before(deadline))
	})
}

func TestAReadWhoseDeadlinePassesDuringTheCut(t *testing.T) {
	t.Parallel()
	for _, comes := range []string{"something", ""} {
		t.Run(fmt.Sprintf("%q comes", comes), func(t *testing.T) {
			t.Parallel()
			m := startForCuts(t, quiet)
			c, peer := connect(t, m, "c", "tcp")
			waiting := reading(readSome(c))
			failCut(t, m, func() {
				io.WriteString(peer, comes)
				deadline := time.Now().Add(20 * time.Millisecond)
				assert.NoError(t, c.SetReadDeadline(deadline))
				<-time.After(time.Until(deadline) + 20*time.Millisecond)
				assert.Empty(t, waiting, "nothing returns during the cut")
			})
			got := receive(t, waiting, "the reader")
			assert.Equal(t, comes, got.text)
			if comes == "" {
				assert.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
			} else {
				assert.NoError(t, got.err)
			}
			require.NoError(t, c.Mark(nil))

			deadline := time.Now().Add(time.Second) // more than enough to begin the cut
			require.NoError(t, c.SetReadDeadline(deadline))
			waiting = reading(readSome(c))
			m, err := cut(t, m, func() error {
				<-time.After(time.Until(deadline) + 20*time.Millisecond)
				return nil
			})
			require.NoError(t, err)
			assert.ErrorIs(t, receive(t, waiting, "the old reader").err, mitosis.ErrSuperseded)
			next, err := m.Conn("c")
			require.NoError(t, err)
			_, err = next.Read(make([]byte, 1))
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			io.WriteString(peer, "later")
			require.NoError(t, next.SetReadDeadline(time.Now().Add(within)))
			text, err := readSome(next)()
			require.NoError(t, err)
			require.Equal(t, "later", text)
		})
	}
}

func TestAWriteWhoseDeadlinePassesDuringTheCutIsNotCutShort(t *testing.T) {
	t.Parallel()
	m := startForCuts(t, quiet)
	c, peer := connect(t, m, "c", "tcp")
	big := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{}).Read(big)
	deadline := time.Now().Add(time.Second) // more than enough to begin the cut
	require.NoError(t, c.SetWriteDeadline(deadline))
	written := make(chan error, 1)
	go func() { _, err := c.Write(big); written <- err }()
	_, err := io.ReadFull(bounded(t, peer), make([]byte, 1)) // it is under way
	require.NoError(t, err)
	m, err = cut(t, m, func() error {
		<-time.After(time.Until(deadline) + 20*time.Millisecond)
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, receive(t, written, "the write"))
	next, err := m.Conn("c")
	require.NoError(t, err)
	_, err = next.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, next.SetWriteDeadline(time.Time{})) // the rest goes on
	go next.CloseWrite()
	rest, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, sha(big[1:]), sha(rest))
}

func TestOptionsOfTheSocketAreTheSameInTheNextGeneration(t *testing.T) {
	t.Parallel()
	type option struct{ level, name int }
	ints := map[string]option{
		"TCP_NODELAY":   {unix.IPPROTO_TCP, unix.TCP_NODELAY},
		"SO_KEEPALIVE":  {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		"TCP_KEEPIDLE":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
		"TCP_KEEPCNT":   {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
		"SO_RCVBUF":     {unix.SOL_SOCKET, unix.SO_RCVBUF},
		"SO_SNDBUF":     {unix.SOL_SOCKET, unix.SO_SNDBUF},
	}
	look := func(c *mitosis.Conn) map[string]any {
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		values := map[string]any{}
		require.NoError(t, raw.Control(func(fd uintptr) {
			for name, o := range ints {
				values[name], err = unix.GetsockoptInt(int(fd), o.level, o.name)
				require.NoError(t, err)
			}
			linger, err := unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER)
			require.NoError(t, err)
			values["SO_LINGER"] = *linger
			values["O_NONBLOCK"], _ = unix.FcntlInt(fd, unix.F_GETFL, 0)
			closeOnExec, _ := unix.FcntlInt(fd, unix.F_GETFD, 0)
			require.Equal(t, unix.FD_CLOEXEC, closeOnExec)
		}))
		return values
	}
	m := start(t, quiet)
	before := map[string]map[string]any{}
	for name, set := range map[string]func(*net.TCPConn){
		"as they come": func(*net.TCPConn) {},
		"changed": func(c *net.TCPConn) {
			require.NoError(t, c.SetNoDelay(false))
			require.NoError(t, c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 77 * time.Second, Interval: 7 * time.Second, Count: 3}))
			require.NoError(t, c.SetReadBuffer(54_321))
			require.NoError(t, c.SetWriteBuffer(12_345))
			require.NoError(t, c.SetLinger(7))
		},
		"without keep-alive": func(c *net.TCPConn) {
			require.NoError(t, c.SetKeepAlive(false))
			require.NoError(t, c.SetLinger(0))
		},
	} {
		c, _ := connect(t, m, name, "tcp")
		set(c.NetConn().(*net.TCPConn))
		before[name] = look(c)
	}
	assert.Equal(t, 0, before["changed"]["TCP_NODELAY"])
	assert.Equal(t, 77, before["changed"]["TCP_KEEPIDLE"])
	assert.Equal(t, 0, before["without keep-alive"]["SO_KEEPALIVE"])
	for range 2 {
		m = split(t, m)
		for name, want := range before {
			assert.Equal(t, want, look(inherit(t, m, name)), name)
		}
	}
}

func TestCallsDuringTheCutWaitForItsOutcome(t *testing.T) {
	t.Parallel()
	for _, succeeds := range []bool{true, false} {
		t.Run(fmt.Sprint("success ", succeeds), func(t *testing.T) {
			t.Parallel()
			m := startForCuts(t, quiet)
			toClose, _ := connect(t, m, "close", "tcp")
			toWrite, writePeer := connect(t, m, "write", "tcp")
			toHalf, _ := connect(t, m, "close write", "tcp")
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			client, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			defer client.Close()

			returned := map[string]chan error{}
			var calls sync.Mutex
			call := func(name string, f func() error) {
				result := make(chan error, 1)
				calls.Lock()
				returned[name] = result
				calls.Unlock()
				go func() { result <- f() }()
			}
			var added, dialled *mitosis.Conn
			var names []string
			during := func() {
				call("close", toClose.Close)
				call("write", func() error { return second(io.WriteString(toWrite, "hello")) })
				call("close write", toHalf.CloseWrite)
				call("add", func() (err error) { added, err = m.AddConn("added", client); return err })
				call("dial", func() (err error) {
					dialled, err = m.Dial(context.Background(), "dialled", "tcp", ln.Addr().String())
					return err
				})
				call("remove", func() error { return m.Remove("write") })
				call("conns", func() error {
					for _, c := range m.Conns("") {
						names = append(names, c.Name())
					}
					return nil
				})
				// Nobody can prove that they would wait for ever: give them some time.
				<-time.After(50 * time.Millisecond)
				calls.Lock()
				defer calls.Unlock()
				for name, c := range returned {
					if name != "conns" {
						assert.Empty(t, c, "%s does not wait", name)
					}
				}
			}
			if succeeds {
				next, err := cut(t, m, func() error { during(); return nil })
				require.NoError(t, err)
				for name, c := range returned {
					err := receive(t, c, name)
					if name != "conns" {
						assert.ErrorIs(t, err, mitosis.ErrSuperseded, name)
					}
				}
				var arrived []string
				for _, c := range next.Conns("") {
					arrived = append(arrived, c.Name())
				}
				assert.Equal(t, []string{"close", "close write", "write"}, arrived)
				_, err = io.WriteString(client, "it is the caller's") // c of AddConn
				assert.NoError(t, err)
				_, err = m.AddConn("late", client)
				assert.ErrorIs(t, err, mitosis.ErrSuperseded)
				_, err = m.Dial(t.Context(), "late", "tcp", ln.Addr().String())
				assert.ErrorIs(t, err, mitosis.ErrSuperseded)
				return
			}
			failCut(t, m, during)
			for name, c := range returned {
				assert.NoError(t, receive(t, c, name), name)
			}
			assert.Equal(t, "added", added.Name())
			assert.Equal(t, "dialled", dialled.Name())
			_, err = io.ReadFull(bounded(t, writePeer), make([]byte, len("hello")))
			assert.NoError(t, err)
			next := split(t, m)
			var arrived []string
			for _, c := range next.Conns("") {
				arrived = append(arrived, c.Name())
			}
			assert.Equal(t, []string{"added", "close write", "dialled"}, arrived)
		})
	}
}
