//go:build unix

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// bound is how long an event may take that has to come.
const bound = 20 * time.Second

// connPair returns the two ends of a Unix stream socket.
func connPair(t testing.TB) (one, other *net.UnixConn) {
	t.Helper()
	one, descriptor, err := sys.Pair()
	require.NoError(t, err)
	other, err = sys.UnixConn(descriptor)
	require.NoError(t, err)
	t.Cleanup(func() { one.Close(); other.Close() })
	for _, c := range []*net.UnixConn{one, other} {
		require.NoError(t, c.SetDeadline(time.Now().Add(bound)))
	}
	return one, other
}

// linkPair returns a raw sender and a link that receives from it.
func linkPair(t testing.TB) (raw *net.UnixConn, link *Link) {
	t.Helper()
	raw, other := connPair(t)
	return raw, NewLink(other)
}

// witness knows when the last copy of a descriptor has been closed.
type witness struct {
	t          testing.TB
	r          *os.File
	descriptor int
}

// newWitness returns one whose descriptor is the writing end of a pipe.
func newWitness(t testing.TB) *witness {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	descriptor, err := sys.Duplicate(w)
	require.NoError(t, err)
	return &witness{t, r, descriptor}
}

// copies returns the descriptor n times.
func (w *witness) copies(n int) []int {
	descriptors := make([]int, n)
	for i := range descriptors {
		descriptors[i] = w.descriptor
	}
	return descriptors
}

// sent closes the sender's copy.
func (w *witness) sent() { CloseDescriptors([]int{w.descriptor}) }

// hasNoCopy asserts that nobody holds the descriptor.
func (w *witness) hasNoCopy() {
	w.t.Helper()
	require.NoError(w.t, w.r.SetReadDeadline(time.Now().Add(bound)))
	_, err := w.r.Read(make([]byte, 1))
	require.ErrorIs(w.t, err, io.EOF, "a descriptor was left open")
}

// hasCopy asserts that somebody does.
func (w *witness) hasCopy() {
	w.t.Helper()
	require.NoError(w.t, w.r.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err := w.r.Read(make([]byte, 1))
	require.ErrorIs(w.t, err, os.ErrDeadlineExceeded)
}

// encode returns the bytes of a frame that need not be a valid one.
func encode(kind Kind, descriptors, length int, payload ...byte) []byte {
	b := []byte{byte(kind), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(descriptors))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, payload...)
}

// pattern returns n bytes of which no two neighbouring kibibytes are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>10)
	}
	return b
}

func TestFramesArriveAsTheyWereSent(t *testing.T) {
	one, other := connPair(t)
	sender, receiver := NewLink(one), NewLink(other)
	w := newWitness(t)
	var sent []Frame
	for _, kind := range Kinds() {
		sent = append(sent, Frame{Kind: kind, Payload: []byte(kind.String()), Descriptors: w.copies(int(kind) % 3)})
	}
	for _, size := range []int{0, 1, 64<<10 - headerSize, 64 << 10, 64<<10 + 1, 200_000, MaxPayload} {
		for _, descriptors := range []int{0, 1, MaxDescriptors} {
			sent = append(sent, Frame{Kind: Data, Payload: pattern(size), Descriptors: w.copies(descriptors)})
		}
	}
	failed := make(chan error, 1)
	go func() {
		err := sender.Send(sent...)
		failed <- errors.Join(err, sender.Close())
	}()
	for i, want := range sent {
		got, err := receiver.Receive()
		require.NoError(t, err, "frame %d", i)
		require.Equal(t, want.Kind, got.Kind, "frame %d", i)
		require.True(t, bytes.Equal(want.Payload, got.Payload), "payload of frame %d", i)
		require.Len(t, got.Descriptors, len(want.Descriptors), "frame %d", i)
		for _, fd := range got.Descriptors {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			require.NoError(t, err)
			require.Equal(t, unix.FD_CLOEXEC, flags&unix.FD_CLOEXEC, "close-on-exec")
		}
		CloseDescriptors(got.Descriptors)
	}
	require.NoError(t, <-failed)
	_, err := receiver.Receive()
	require.ErrorIs(t, err, io.EOF)
	w.hasCopy()
	w.sent()
	w.hasNoCopy()
}

func TestADescriptorThatArrivesIsTheOneThatWasSent(t *testing.T) {
	one, other := connPair(t)
	sender, receiver := NewLink(one), NewLink(other)
	var descriptors []int
	var readers []*os.File
	for range 5 {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		defer r.Close()
		defer w.Close()
		fd, err := sys.Duplicate(w)
		require.NoError(t, err)
		readers, descriptors = append(readers, r), append(descriptors, fd)
	}
	// Two frames with descriptors and one between them are under way at once.
	require.NoError(t, sender.Send(
		Frame{Kind: State, Descriptors: descriptors[:2]},
		Frame{Kind: Data, Payload: []byte("between")},
		Frame{Kind: Conns, Descriptors: descriptors[2:]},
	))
	CloseDescriptors(descriptors)
	var arrived []int
	for _, want := range []int{2, 0, 3} {
		f, err := receiver.Receive()
		require.NoError(t, err)
		require.Len(t, f.Descriptors, want)
		arrived = append(arrived, f.Descriptors...)
	}
	defer CloseDescriptors(arrived)
	for i, fd := range arrived {
		_, err := unix.Write(fd, []byte{byte('a' + i)})
		require.NoError(t, err)
		b := make([]byte, 2)
		require.NoError(t, readers[i].SetReadDeadline(time.Now().Add(bound)))
		n, err := readers[i].Read(b)
		require.NoError(t, err)
		require.Equal(t, []byte{byte('a' + i)}, b[:n])
	}
}

func TestFramesOfSeveralSendersDoNotMix(t *testing.T) {
	one, other := connPair(t)
	sender, receiver := NewLink(one), NewLink(other)
	const senders, each = 4, 50
	failed := make(chan error, senders)
	for s := range senders {
		go func() {
			var err error
			for range each {
				err = errors.Join(err, sender.Send(Frame{Kind: Data, Payload: bytes.Repeat([]byte{byte(s)}, 5000+s)}))
			}
			failed <- err
		}()
	}
	counts := map[byte]int{}
	for range senders * each {
		f, err := receiver.Receive()
		require.NoError(t, err)
		s := f.Payload[0]
		require.True(t, bytes.Equal(bytes.Repeat([]byte{s}, 5000+int(s)), f.Payload))
		counts[s]++
	}
	for range senders {
		require.NoError(t, <-failed)
	}
	require.Equal(t, map[byte]int{0: each, 1: each, 2: each, 3: each}, counts)
}

func TestAFrameThatIsTooLargeIsNotSent(t *testing.T) {
	one, other := connPair(t)
	sender := NewLink(one)
	require.ErrorIs(t, sender.Send(Frame{Kind: Data, Payload: make([]byte, MaxPayload+1)}), ErrMalformed)
	require.ErrorIs(t, sender.Send(Frame{Kind: Conns, Descriptors: make([]int, MaxDescriptors+1)}), ErrMalformed)
	require.NoError(t, sender.Close())
	_, err := NewLink(other).Receive()
	require.ErrorIs(t, err, io.EOF, "nothing of them has been sent")
}

func TestAnUnknownOptionalFrameIsSkippedWithItsDescriptors(t *testing.T) {
	one, other := connPair(t)
	sender, receiver := NewLink(one), NewLink(other)
	w := newWitness(t)
	require.NoError(t, sender.Send(
		Frame{Kind: Optional | 0x7f, Payload: pattern(1000), Descriptors: w.copies(3)},
		Frame{Kind: Optional},
		Frame{Kind: Ready, Payload: []byte("known")},
	))
	w.sent()
	f, err := receiver.Receive()
	require.NoError(t, err)
	require.Equal(t, Frame{Kind: Ready, Payload: []byte("known")}, f)
	w.hasNoCopy()
}

func TestABrokenFrameIsRefusedAndItsDescriptorsAreClosed(t *testing.T) {
	for _, c := range []struct {
		name string
		sent []byte
		err  error
		text string
	}{
		{"an unknown kind", encode(0x7f, 2, 3, 1, 2, 3), ErrMalformed, "0x7f"},
		{"the kind zero", encode(0, 2, 0), ErrMalformed, "0x00"},
		{"a reserved byte", append([]byte{byte(Ready), 1}, encode(Ready, 2, 0)[2:]...), ErrMalformed, "reserved"},
		{"a payload above the limit", encode(Data, 2, MaxPayload+1), ErrMalformed, fmt.Sprint(MaxPayload + 1)},
		{"a payload of nearly 4 GiB", encode(Data, 2, math.MaxUint32), ErrMalformed, "4294967295"},
		{"an optional frame above the limit", encode(Optional|0x7f, 2, MaxPayload+1), ErrMalformed, "0xff"},
		{"more descriptors than a frame can have", encode(Conns, MaxDescriptors+1, 0), ErrMalformed, "254 descriptors"},
		{"more descriptors than came", encode(Conns, 5, 0), ErrMalformed, "lost 3 of 5"},
		{"one byte", []byte{byte(Hello)}, io.ErrUnexpectedEOF, ""},
		{"all but one byte of a header", encode(Ready, 2, 0)[:headerSize-1], io.ErrUnexpectedEOF, ""},
		{"a header without its payload", encode(Data, 2, 100), io.ErrUnexpectedEOF, ""},
		{"a part of a payload", encode(Data, 2, 100, pattern(99)...), io.ErrUnexpectedEOF, ""},
		{"a part of a long payload", encode(Data, 2, MaxPayload, pattern(70_000)...), io.ErrUnexpectedEOF, ""},
		{"a part of an optional frame", encode(Optional|0x7f, 2, 4, 1), io.ErrUnexpectedEOF, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, link := linkPair(t)
			w := newWitness(t)
			_, _, err := raw.WriteMsgUnix(c.sent, unix.UnixRights(w.copies(2)...), nil)
			require.NoError(t, err)
			w.sent()
			require.NoError(t, raw.CloseWrite())
			f, err := link.Receive()
			require.ErrorIs(t, err, c.err)
			require.NotErrorIs(t, err, io.EOF)
			require.ErrorContains(t, err, c.text)
			require.Zero(t, f)
			w.hasNoCopy()
		})
	}
}

func TestAFrameMayArriveByteByByte(t *testing.T) {
	raw, link := linkPair(t)
	w := newWitness(t)
	b := encode(State, 1, 5, []byte("hello")...)
	_, _, err := raw.WriteMsgUnix(b[:1], unix.UnixRights(w.descriptor), nil)
	require.NoError(t, err)
	w.sent()
	for _, c := range b[1:] {
		_, err := raw.Write([]byte{c})
		require.NoError(t, err)
	}
	f, err := link.Receive()
	require.NoError(t, err)
	require.Equal(t, State, f.Kind)
	require.Equal(t, "hello", string(f.Payload))
	require.Len(t, f.Descriptors, 1)
	w.hasCopy()
	CloseDescriptors(f.Descriptors)
	w.hasNoCopy()
}

// The next frame with a descriptor would get one of them in place of its own.
func TestDescriptorsThatNoFrameAnnouncedBreakTheLinkAndAreClosed(t *testing.T) {
	for _, c := range []struct {
		name string
		sent []byte
	}{
		{"with a frame that has none", encode(Ready, 0, 0)},
		{"with a frame that has fewer", encode(Conns, 2, 1, 'a')},
		{"with a frame that is skipped", encode(Optional|0x7f, 0, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, link := linkPair(t)
			w := newWitness(t)
			_, _, err := raw.WriteMsgUnix(c.sent, unix.UnixRights(w.copies(MaxDescriptors)...), nil)
			require.NoError(t, err)
			w.sent()
			f, err := link.Receive()
			require.ErrorIs(t, err, ErrMalformed)
			require.ErrorContains(t, err, "too many")
			require.Zero(t, f)
			w.hasNoCopy()
		})
	}
}

func TestDescriptorsWithoutEndForAFrameThatIsNeverWholeBreakTheLink(t *testing.T) {
	raw, link := linkPair(t)
	w := newWitness(t)
	_, err := raw.Write(encode(Conns, MaxDescriptors, MaxPayload))
	require.NoError(t, err)
	for range 3 {
		_, _, err := raw.WriteMsgUnix([]byte{0}, unix.UnixRights(w.copies(MaxDescriptors)...), nil)
		require.NoError(t, err)
	}
	w.sent()
	_, err = link.Receive()
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "759 descriptors")
	w.hasNoCopy()
}

func TestDescriptorsForWhichThereIsNoRoomBreakTheLink(t *testing.T) {
	raw, link := linkPair(t)
	w := newWitness(t)
	link.oob = make([]byte, unix.CmsgSpace(2*4)) // so that one message has too many
	_, _, err := raw.WriteMsgUnix(encode(Conns, 9, 0), unix.UnixRights(w.copies(9)...), nil)
	require.NoError(t, err)
	w.sent()
	_, err = link.Receive()
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "MSG_CTRUNC")
	w.hasNoCopy()
}

// limitedVariable makes this binary a receiver at its descriptor limit.
const limitedVariable = "WIRE_TEST_AT_DESCRIPTOR_LIMIT"

func init() {
	if os.Getenv(limitedVariable) != "" {
		if err := receiveAtLimit(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// receiveAtLimit receives from descriptor 3, with one free descriptor.
func receiveAtLimit() error {
	conn, err := sys.UnixConn(3)
	if err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(bound))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = 64
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	last := -1
	for {
		fd, err := unix.Dup(1)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			return err
		}
		last = fd
	}
	unix.Close(last)
	_, err = NewLink(conn).Receive()
	if !errors.Is(err, ErrMalformed) {
		return fmt.Errorf("receive: %v", err)
	}
	fmt.Println(err)
	if fd, err := unix.Dup(1); err != nil || fd != last {
		return fmt.Errorf("the free descriptor was %d; now: %d, %v", last, fd, err)
	}
	return nil
}

func TestAReceiverAtItsDescriptorLimitSaysSoAndKeepsNone(t *testing.T) {
	ours, theirs := connPair(t)
	file, err := theirs.File()
	require.NoError(t, err)
	require.NoError(t, theirs.Close())
	// It is on the link before the receiver starts, and is lost only when it is read.
	w := newWitness(t)
	_, _, err = ours.WriteMsgUnix(encode(Conns, 3, 0), unix.UnixRights(w.copies(3)...), nil)
	require.NoError(t, err)
	w.sent()
	executable, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(executable)
	cmd.Env = append(os.Environ(), limitedVariable+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{file}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	require.NoError(t, file.Close())
	require.NoError(t, cmd.Wait(), "%s", &output)
	assert.Contains(t, output.String(), "MSG_CTRUNC")
	w.hasNoCopy()
}

func TestGreetingsSurviveTheirFrame(t *testing.T) {
	g := Greeting{MinVersion: 1, MaxVersion: 7, Pid: math.MaxUint32, Generation: math.MaxUint64}
	copy(g.Nonce[:], pattern(NonceSize))
	copy(g.Digest[:], bytes.Repeat([]byte{0xfe}, DigestSize))
	f := g.Frame()
	b := append(f.appendHeader(nil), f.Payload...)
	require.Len(t, b, HelloSize)
	decoded, err := DecodeHello(b)
	require.NoError(t, err)
	require.Equal(t, g, decoded)

	t.Run("of a later version that has more fields", func(t *testing.T) {
		longer := append(encode(Hello, 0, greetingSize+100, f.Payload...), pattern(100)...)
		for _, seen := range []int{HelloSize, HelloSize + 1, len(longer)} {
			decoded, err := DecodeHello(longer[:seen])
			require.NoError(t, err, "%d bytes seen", seen)
			require.Equal(t, g, decoded)
		}
	})
	t.Run("with other frames behind it", func(t *testing.T) {
		decoded, err := DecodeHello(append(bytes.Clone(b), encode(Sockets, 0, 0)...))
		require.NoError(t, err)
		require.Equal(t, g, decoded)
	})
	t.Run("but not in part", func(t *testing.T) {
		for n := range len(b) {
			_, err := DecodeHello(b[:n])
			require.ErrorIs(t, err, ErrMalformed, "%d bytes", n)
		}
	})
}

func TestWhatIsNoGreetingIsRefused(t *testing.T) {
	good := Greeting{MinVersion: 1, MaxVersion: 1, Pid: 1, Generation: 1}
	whole := func(f Frame) []byte { return append(f.appendHeader(nil), f.Payload...) }
	_, err := DecodeHello(whole(good.Frame()))
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"another kind":        append([]byte{byte(Sockets)}, whole(good.Frame())[1:]...),
		"with a descriptor":   encode(Hello, 1, greetingSize, good.Frame().Payload...),
		"other magic":         bytes.Replace(whole(good.Frame()), []byte("mitosis"), []byte("meiosis"), 1),
		"too short by itself": encode(Hello, 0, greetingSize-1, good.Frame().Payload...),
		"text":                []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n and more, so that it is long enough"),
		"versions backwards":  whole(Greeting{MinVersion: 2, MaxVersion: 1, Generation: 1}.Frame()),
		"generation zero":     whole(Greeting{MinVersion: 1, MaxVersion: 1}.Frame()),
	} {
		_, err := DecodeHello(b)
		assert.ErrorIs(t, err, ErrMalformed, name)
	}
}

func TestTheHighestCommonVersionIsChosen(t *testing.T) {
	for _, c := range []struct{ lowest, highest, want uint16 }{
		{MinVersion, MaxVersion, MaxVersion},
		{0, MaxVersion, MaxVersion},
		{MinVersion, math.MaxUint16, MaxVersion},
		{MaxVersion, MaxVersion + 5, MaxVersion},
		{MaxVersion + 1, MaxVersion + 5, 0},
		{0, MinVersion - 1, 0},
	} {
		assert.Equal(t, c.want, Greeting{MinVersion: c.lowest, MaxVersion: c.highest}.Version(), "%+v", c)
	}
}

func TestConnectionRecordsSurviveTheirEncoding(t *testing.T) {
	records := []ConnRecord{
		{},
		{Name: "a/1", Network: "tcp", Address: "localhost:80", ReadDeadline: 1, WriteDeadline: -1, Unread: 1, Unsent: 2, Flags: ClosingFlag},
		{Name: "\x00\xff ü", Network: "unix", Address: string(pattern(5000)), ReadDeadline: math.MaxInt64,
			WriteDeadline: math.MinInt64, Unread: math.MaxUint64, Unsent: math.MaxUint64, Flags: math.MaxUint64},
	}
	for len(records) < MaxDescriptors {
		records = append(records, ConnRecord{Name: fmt.Sprint("n", len(records)), Unread: uint64(len(records))})
	}
	for _, n := range []int{0, 1, 3, MaxDescriptors} {
		prefix := []byte("before")
		b := AppendConns(prefix, records[:n])
		require.Equal(t, "before", string(b[:len(prefix)]))
		b = b[len(prefix):]
		decoded, err := DecodeConns(b)
		require.NoError(t, err)
		require.Equal(t, records[:n], decoded)
		if n == 3 {
			for cut := range len(b) {
				_, err := DecodeConns(b[:cut])
				require.ErrorIs(t, err, ErrMalformed, "the first %d bytes", cut)
			}
			_, err = DecodeConns(append(bytes.Clone(b), 0))
			require.ErrorIs(t, err, ErrMalformed, "a byte too many")
		}
	}
	_, err := DecodeConns(AppendConns(nil, append(records, ConnRecord{})))
	require.ErrorIs(t, err, ErrMalformed, "more than one frame can have descriptors for")
	fewer := AppendConns(nil, records[:1])
	fewer[1]--
	_, err = DecodeConns(fewer)
	require.ErrorIs(t, err, ErrMalformed, "another number of fields")
	_, err = DecodeConns(binary.AppendUvarint([]byte{1, connRecordFields}, math.MaxUint64))
	require.ErrorIs(t, err, ErrMalformed, "a name of 2^64-1 bytes")
}

func TestMessagesSurviveTheirFrame(t *testing.T) {
	sent := Inheritance{Last: true, Sockets: []Socket{
		{Name: "a=b, c", Descriptor: 4, Type: "listener", Network: "unix", Address: "@x", Path: &PathIdentity{"/p", math.MaxUint64, 2, -3}},
		{Name: "ü", Descriptor: 5, Type: "file"},
	}}
	f, err := Message(Sockets, sent)
	require.NoError(t, err)
	var got Inheritance
	require.NoError(t, f.Decode(&got, 0))
	require.Equal(t, sent, got)

	var name StateName
	f = Frame{Kind: State, Payload: []byte(`{"name":"s","of a later version":[1]}`), Descriptors: []int{9}}
	require.NoError(t, f.Decode(&name, 1))
	require.Equal(t, StateName{Name: "s"}, name)
	require.ErrorIs(t, f.Decode(&name, 0), ErrMalformed, "another number of descriptors")
	require.ErrorIs(t, f.Decode(&name, 2), ErrMalformed, "another number of descriptors")
	f.Payload = []byte(`{"name":1}`)
	require.ErrorIs(t, f.Decode(&name, 1), ErrMalformed)
	_, err = Message(State, make(chan int))
	require.ErrorContains(t, err, "STATE")
}

func TestEveryKindHasAName(t *testing.T) {
	names := map[string]bool{}
	for _, kind := range Kinds() {
		names[kind.String()] = true
		assert.True(t, kind.known())
		assert.NotContains(t, kind.String(), "frame kind")
	}
	assert.Len(t, names, len(kindNames))
	assert.Len(t, Kinds(), len(kindNames))
	assert.Equal(t, "frame kind 0x7e", Kind(0x7e).String())
}

func TestALinkThatIsClosedSaysSo(t *testing.T) {
	one, other := connPair(t)
	link, peer := NewLink(one), NewLink(other)
	received := make(chan error, 1)
	go func() {
		_, err := link.Receive()
		received <- err
	}()
	require.NoError(t, link.Close())
	require.ErrorIs(t, <-received, net.ErrClosed)
	require.ErrorIs(t, link.Close(), net.ErrClosed)
	require.ErrorIs(t, link.Send(Frame{Kind: Ready}), net.ErrClosed)
	require.ErrorIs(t, peer.Send(Frame{Kind: Ready}), unix.EPIPE)
	_, err := peer.Receive()
	require.ErrorIs(t, err, io.EOF)
}
