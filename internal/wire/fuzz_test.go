//go:build unix

package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// model is what a link has to make of bytes and of descriptors that come with the
// first of them.
func model(b []byte, descriptors int) (frames []Frame, end error) {
	for len(b) > 0 {
		if len(b) < headerSize {
			return frames, io.ErrUnexpectedEOF
		}
		kind, claimed, length := Kind(b[0]), int(binary.BigEndian.Uint16(b[2:])), uint64(binary.BigEndian.Uint32(b[4:]))
		known := kind >= Hello && kind <= Refuse || kind == Settled || kind == Signal || kind == Relay
		if b[1] != 0 || !known && kind < Optional || claimed > MaxDescriptors || length > MaxPayload {
			return frames, ErrMalformed
		}
		if uint64(len(b)-headerSize) < length {
			return frames, io.ErrUnexpectedEOF
		}
		if claimed > descriptors {
			return frames, ErrMalformed
		}
		descriptors -= claimed
		if descriptors > 0 && uint64(len(b)-headerSize) == length {
			return frames, ErrMalformed // they belong to no frame
		}
		if known {
			frames = append(frames, Frame{kind, b[headerSize : headerSize+length], make([]int, claimed)})
		}
		b = b[headerSize+length:]
	}
	return frames, io.EOF
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(encode(Hello, 0, 3, 'a', 'b', 'c'), uint8(0))
	f.Add(encode(Conns, 2, 1, 'a'), uint8(2))
	f.Add(append(encode(Optional|9, 1, 1, 'a'), encode(Ready, 1, 0)...), uint8(3))
	f.Add(encode(0x70, 1, 0), uint8(1))
	f.Add(encode(Data, 0, MaxPayload+1), uint8(1))
	f.Add(encode(Data, MaxDescriptors, 5, 1, 2), uint8(253))
	f.Fuzz(func(t *testing.T, b []byte, descriptors uint8) {
		if len(b) > 64<<10 || descriptors > MaxDescriptors {
			return // it has to fit into the socket
		}
		if len(b) == 0 {
			descriptors = 0 // they need a byte to ride on
		}
		raw, link := linkPair(t)
		defer raw.Close()
		defer link.Close()
		w := newWitness(t)
		defer w.r.Close()
		if len(b) > 0 {
			var rights []byte
			if descriptors > 0 {
				rights = unix.UnixRights(w.copies(int(descriptors))...)
			}
			n, _, err := raw.WriteMsgUnix(b, rights, nil)
			require.NoError(t, err)
			require.Equal(t, len(b), n)
		}
		w.sent()
		require.NoError(t, raw.CloseWrite())
		frames, end := model(b, int(descriptors))
		for i := 0; ; i++ {
			got, err := link.Receive()
			if err != nil {
				require.ErrorIs(t, err, end)
				require.Len(t, frames, i)
				break
			}
			CloseDescriptors(got.Descriptors)
			require.Less(t, i, len(frames))
			require.Equal(t, frames[i].Kind, got.Kind)
			require.True(t, bytes.Equal(frames[i].Payload, got.Payload))
			require.Len(t, got.Descriptors, len(frames[i].Descriptors))
		}
		w.hasNoCopy()
	})
}

func FuzzDecodeHello(f *testing.F) {
	g := Greeting{MinVersion: 1, MaxVersion: 1, Pid: 7, Generation: 1}.Frame()
	f.Add(append(g.appendHeader(nil), g.Payload...))
	f.Add(append(encode(Hello, 0, greetingSize+4, g.Payload...), 1, 2, 3, 4))
	f.Add(encode(Hello, 0, greetingSize+4, g.Payload...))
	f.Add(encode(Hello, 0, 0))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := DecodeHello(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.LessOrEqual(t, g.MinVersion, g.MaxVersion)
		require.LessOrEqual(t, g.Version(), uint16(MaxVersion))
		again := g.Frame()
		require.Equal(t, b[headerSize:HelloSize], again.Payload)
		decoded, err := DecodeHello(b[:HelloSize])
		require.NoError(t, err, "the first bytes are enough")
		require.Equal(t, g, decoded)
	})
}

func FuzzDecodeConns(f *testing.F) {
	f.Add(AppendConns(nil, nil))
	f.Add(AppendConns(nil, []ConnRecord{{}, {Name: "a", Network: "tcp", Address: "b", ReadDeadline: -1, WriteDeadline: 1, Unread: 300, Unsent: 1, Flags: ClosingFlag}}))
	f.Add([]byte{0x81, 0x00, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := DecodeConns(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			require.Nil(t, records)
			return
		}
		require.LessOrEqual(t, len(records), MaxDescriptors)
		encoded := AppendConns(nil, records)
		require.LessOrEqual(t, len(encoded), len(b), "no number is written longer than it has to be")
		again, err := DecodeConns(encoded)
		require.NoError(t, err)
		require.Equal(t, records, again)
	})
}

// messages are the kinds whose payload is JSON, with the types of it.
var messages = map[Kind]func() any{
	Sockets:  func() any { return new(Inheritance) },
	Join:     func() any { return new(Joining) },
	Want:     func() any { return new(Wanting) },
	State:    func() any { return new(StateName) },
	StateEnd: func() any { return new(StateName) },
	Complete: func() any { return new(Completion) },
	Refuse:   func() any { return new(Refusal) },
	Signal:   func() any { return new(Notice) },
	Relay:    func() any { return new(Relaying) },
}

func FuzzMessages(f *testing.F) {
	for _, text := range []string{
		`{"sockets":[{"name":"a","fd":3,"type":"file","path":{"path":"/","dev":1,"ino":2,"mtime":-3}}],"last":true}`,
		`{"version":1,"pid":2}`, `{"states":["a",null]}`, `{"name":"a","bytes":1}`, `{"states":1,"conns":2}`,
		`{"reason":"\ud800"}`, `{"stop":true}`, `null`, `{"version":65536}`, `[`, ``,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for kind, empty := range messages {
			first := empty()
			frame := Frame{Kind: kind, Payload: payload}
			if err := frame.Decode(first, 0); err != nil {
				require.ErrorIs(t, err, ErrMalformed)
				continue
			}
			again, err := Message(kind, first)
			require.NoError(t, err)
			require.True(t, json.Valid(again.Payload))
			second := empty()
			require.NoError(t, again.Decode(second, 0))
			if !reflect.DeepEqual(first, second) {
				require.Equal(t, first, second, "%v", kind)
			}
			err = again.Decode(second, 1)
			require.True(t, errors.Is(err, ErrMalformed))
		}
	})
}
