//go:build unix

package mitosis

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// hesitant reads in pieces of the sizes given, and then in whole.
type hesitant struct {
	content []byte
	sizes   []byte
}

func (h *hesitant) Read(b []byte) (int, error) {
	if len(h.content) == 0 {
		return 0, io.EOF
	}
	n := min(len(b), len(h.content))
	if len(h.sizes) > 0 {
		n = min(n, int(h.sizes[0]))
		h.sizes = h.sizes[1:]
	}
	copy(b, h.content[:n])
	h.content = h.content[n:]
	return n, nil
}

// fuzzed is a state with something of every kind.
type fuzzed struct {
	Text   string
	Number int64
	Real   float64
	List   []fuzzed
	Map    map[string][]byte
	Next   *fuzzed
}

// skipping is a state that reads only some of what there is.
type skipping struct{ bytes int64 }

func (skipping) Save(io.Writer) error { return nil }

func (s skipping) Load(r io.Reader) error {
	_, err := io.CopyN(io.Discard, r, s.bytes)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// A state is loaded, refused, or truncated; it is never anything else, and what
// was not whole is never loaded.
func FuzzLoadState(f *testing.F) {
	saved := func(s State) []byte {
		var b bytes.Buffer
		require.NoError(f, s.Save(&b))
		return b.Bytes()
	}
	example := fuzzed{"a", -1, 0.5, []fuzzed{{Text: "b"}}, map[string][]byte{"c": {1}}, &fuzzed{}}
	f.Add(uint8(0), saved(Gob(&example)), []byte{1, 2, 3}, int64(0))
	f.Add(uint8(1), saved(JSON(&example)), []byte{7}, int64(0))
	f.Add(uint8(2), []byte("content"), []byte{}, int64(1))
	f.Add(uint8(3), []byte("content"), []byte{0, 1}, int64(0))
	f.Add(uint8(0), saved(Gob(&example))[:20], []byte{}, int64(-20))
	f.Fuzz(func(t *testing.T, kind uint8, content, sizes []byte, missing int64) {
		var value fuzzed
		var b []byte
		state := []State{Gob(&value), JSON(&value), Bytes(&b), skipping{3}}[kind%4]
		verdict := make(chan int64, 1)
		total := int64(len(content)) + missing
		if missing == 1<<62 {
			close(verdict) // nobody will say
		} else {
			verdict <- total
		}
		r := &stateReader{pipe: &hesitant{content, sizes}, verdict: verdict}
		err := loadState(state, r)
		whole := missing == 0
		switch {
		case err == nil:
			require.True(t, whole)
			require.Equal(t, int64(len(content)), r.n, "all of it is read")
		case errors.Is(err, ErrTruncated):
			require.False(t, whole)
		}
		switch {
		case kind%4 >= 2 && whole:
			require.NoError(t, err)
		case kind%4 >= 2:
			require.ErrorIs(t, err, ErrTruncated)
		}
		if kind%4 == 2 && whole {
			require.True(t, bytes.Equal(content, b))
		}
		_, again := r.Read(make([]byte, 1))
		if err == nil {
			require.Equal(t, io.EOF, again)
		}
	})
}

// The bytes of connections are taken out of frames of any sizes as they were put in.
func FuzzConnectionData(f *testing.F) {
	f.Add([]byte("some bytes of some connections"), []byte{3, 0, 200, 1}, []byte{4, 1, 0, 9})
	f.Add([]byte{}, []byte{1}, []byte{})
	f.Add(bytes.Repeat([]byte("long"), 500), []byte{255, 255, 255, 255, 255}, []byte{255})
	f.Fuzz(func(t *testing.T, content, wanted, sizes []byte) {
		rest, frames := content, 0
		next := func() (wire.Frame, error) {
			frame := wire.Frame{Kind: wire.Data}
			n := len(rest)
			if len(sizes) > 0 {
				n, sizes = min(n, int(sizes[0])), sizes[1:]
			}
			frame.Payload, rest = rest[:n], rest[n:]
			frames++
			return frame, nil
		}
		var data dataReader
		var got []byte
		for _, n := range wanted {
			b, err := data.read(uint64(n)*3, next)
			if err != nil { // only an empty frame, which would go on for ever
				require.ErrorIs(t, err, ErrProtocol)
				require.Nil(t, b)
				return
			}
			require.Len(t, b, int(n)*3)
			got = append(got, b...)
		}
		require.True(t, bytes.HasPrefix(content, got))
		require.True(t, bytes.Equal(content, append(append(got, data.rest...), rest...)), "none is lost")
		require.LessOrEqual(t, frames, len(content))

		// What was sent comes out again.
		var sent []wire.Frame
		var parts [][]byte
		for left := content; len(left) > 0; {
			n := min(len(left), 1+len(parts)*len(parts))
			parts, left = append(parts, left[:n]), left[n:]
		}
		require.NoError(t, sendData(parts, func(f wire.Frame) error {
			f.Payload = bytes.Clone(f.Payload)
			sent = append(sent, f)
			return nil
		}))
		data = dataReader{}
		for _, part := range parts {
			b, err := data.read(uint64(len(part)), func() (wire.Frame, error) {
				frame := sent[0]
				sent = sent[1:]
				return frame, nil
			})
			require.NoError(t, err)
			require.True(t, bytes.Equal(part, b))
		}
		require.Empty(t, data.rest)
		require.Empty(t, sent)
	})
}
