//go:build unix

package httpx_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"
)

// The types of HTTP/2 frames, and their flags.
const (
	dataFrame     byte = 0
	headersFrame  byte = 1
	settingsFrame byte = 4
	pingFrame     byte = 6
	goAwayFrame   byte = 7

	ackFlag        byte = 1
	endStreamFlag  byte = 1
	endHeadersFlag byte = 4
)

// frame is an HTTP/2 frame.
type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

// framer is a client that speaks HTTP/2 in frames.
type framer struct {
	t       testing.TB
	conn    net.Conn
	r       *bufio.Reader
	fields  bytes.Buffer
	encoder *hpack.Encoder
	decoder *hpack.Decoder
}

func newFramer(t testing.TB, conn net.Conn) *framer {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	f := &framer{t: t, conn: conn, r: bufio.NewReader(conn), decoder: hpack.NewDecoder(4096, nil)}
	f.encoder = hpack.NewEncoder(&f.fields)
	_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	require.NoError(t, err)
	f.write(frame{kind: settingsFrame})
	return f
}

func (f *framer) write(fr frame) {
	f.t.Helper()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(fr.payload))<<8|uint32(fr.kind))
	b = append(b, fr.flags)
	b = binary.BigEndian.AppendUint32(b, fr.stream)
	_, err := f.conn.Write(append(b, fr.payload...))
	require.NoError(f.t, err)
}

// read returns the next frame, and false at the end of the connection.
func (f *framer) read() (fr frame, ok bool) {
	f.t.Helper()
	var head [9]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			f.t.Fatal("no frame comes, nor the end")
		}
		return frame{}, false
	}
	length := binary.BigEndian.Uint32(head[:4]) >> 8
	fr = frame{kind: head[3], flags: head[4], stream: binary.BigEndian.Uint32(head[5:]), payload: make([]byte, length)}
	_, err := io.ReadFull(f.r, fr.payload)
	require.NoError(f.t, err)
	if fr.flags&ackFlag == 0 && (fr.kind == settingsFrame || fr.kind == pingFrame) {
		f.write(frame{kind: fr.kind, flags: ackFlag, payload: map[bool][]byte{true: fr.payload}[fr.kind == pingFrame]})
	}
	return fr, true
}

// await reads up to a frame of that kind.
func (f *framer) await(kind byte) frame {
	f.t.Helper()
	for {
		fr, ok := f.read()
		require.True(f.t, ok, "the connection ended before a frame of type %d", kind)
		if fr.kind == kind && (kind != settingsFrame || fr.flags&ackFlag == 0) {
			return fr
		}
	}
}

// request begins a GET in a stream.
func (f *framer) request(stream uint32, path string) {
	f.t.Helper()
	f.fields.Reset()
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}} {
		require.NoError(f.t, f.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	f.write(frame{kind: headersFrame, flags: endStreamFlag | endHeadersFlag, stream: stream, payload: f.fields.Bytes()})
}

// response reads the response in a stream.
func (f *framer) response(stream uint32) (status, body string) {
	f.t.Helper()
	for {
		fr, ok := f.read()
		require.True(f.t, ok, "the connection ended in stream %d", stream)
		switch fr.kind {
		case headersFrame:
			fields, err := f.decoder.DecodeFull(fr.payload)
			require.NoError(f.t, err)
			require.Equal(f.t, stream, fr.stream)
			for _, field := range fields {
				if field.Name == ":status" {
					status = field.Value
				}
			}
		case dataFrame:
			body += string(fr.payload)
		default:
			continue
		}
		if fr.flags&endStreamFlag != 0 {
			return status, body
		}
	}
}

// requireEnd requires that the server closes the connection, and sends no frame of
// a stream before.
func (f *framer) requireEnd() {
	f.t.Helper()
	for {
		fr, ok := f.read()
		if !ok {
			return
		}
		require.NotContains(f.t, []byte{dataFrame, headersFrame}, fr.kind)
	}
}

// requireAlive requires that the server still has the connection.
func (f *framer) requireAlive() {
	f.t.Helper()
	f.write(frame{kind: pingFrame, payload: make([]byte, 8)})
	f.await(pingFrame)
}
