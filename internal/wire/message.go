package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// The versions of the protocol that this package speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

const magic = "mitosis\n"

// NonceSize and DigestSize are the sizes of Greeting's fields in bytes.
const (
	NonceSize  = 16
	DigestSize = 32
)

const greetingSize = len(magic) + 4 + 4 + 8 + NonceSize + DigestSize

// HelloSize is the size of a Hello frame on the link. The new process may look at
// that many bytes before it trusts the descriptor they came from.
const HelloSize = headerSize + greetingSize

// Greeting is the payload of Hello. Its layout is the same in every version.
type Greeting struct {
	MinVersion, MaxVersion uint16
	Pid                    uint32 // of the old process
	Generation             uint64 // of the old process
	Nonce                  [NonceSize]byte
	Digest                 [DigestSize]byte // SHA-256 of the environment variables
}

// Frame returns the Hello frame that carries g.
func (g Greeting) Frame() Frame {
	b := make([]byte, 0, greetingSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, g.MinVersion)
	b = binary.BigEndian.AppendUint16(b, g.MaxVersion)
	b = binary.BigEndian.AppendUint32(b, g.Pid)
	b = binary.BigEndian.AppendUint64(b, g.Generation)
	b = append(b, g.Nonce[:]...)
	b = append(b, g.Digest[:]...)
	return Frame{Kind: Hello, Payload: b}
}

// DecodeHello decodes the bytes of a Hello frame, header included. HelloSize bytes
// are enough, however long the frame is.
func DecodeHello(b []byte) (Greeting, error) {
	if len(b) < headerSize {
		return Greeting{}, fmt.Errorf("%w: HELLO of %d bytes", ErrMalformed, len(b))
	}
	h, err := parseHeader(b)
	if err != nil {
		return Greeting{}, err
	}
	if h.kind != Hello || h.descriptors != 0 {
		return Greeting{}, fmt.Errorf("%w: %v where HELLO was expected", ErrMalformed, h.kind)
	}
	if len(b)-headerSize < min(h.length, greetingSize) {
		return Greeting{}, fmt.Errorf("%w: truncated HELLO", ErrMalformed)
	}
	return decodeGreeting(b[headerSize:min(len(b), headerSize+h.length)])
}

// decodeGreeting accepts a longer payload than it knows: a later version may add
// fields at the end.
func decodeGreeting(p []byte) (Greeting, error) {
	var g Greeting
	if len(p) < greetingSize || string(p[:len(magic)]) != magic {
		return g, fmt.Errorf("%w: not a HELLO of mitosis", ErrMalformed)
	}
	p = p[len(magic):]
	g.MinVersion = binary.BigEndian.Uint16(p)
	g.MaxVersion = binary.BigEndian.Uint16(p[2:])
	g.Pid = binary.BigEndian.Uint32(p[4:])
	g.Generation = binary.BigEndian.Uint64(p[8:])
	copy(g.Nonce[:], p[16:])
	copy(g.Digest[:], p[16+NonceSize:])
	if g.MinVersion > g.MaxVersion || g.Generation == 0 {
		return g, fmt.Errorf("%w: HELLO with versions %d to %d, generation %d", ErrMalformed, g.MinVersion, g.MaxVersion, g.Generation)
	}
	return g, nil
}

// Version returns the highest version that both sides speak, or 0.
func (g Greeting) Version() uint16 {
	v := min(g.MaxVersion, MaxVersion)
	if v < g.MinVersion || v < MinVersion {
		return 0
	}
	return v
}

// Socket describes one inherited descriptor in Sockets.
type Socket struct {
	Name       string        `json:"name"`
	Descriptor int           `json:"fd"`
	Type       string        `json:"type"`              // "listener", "packet" or "file"
	Network    string        `json:"network,omitempty"` // as the application asked for it
	Address    string        `json:"address,omitempty"` // as the application asked for it; a file's name
	Opened     bool          `json:"opened,omitempty"`  // by the registry: nobody else has it
	Path       *PathIdentity `json:"path,omitempty"`    // of a Unix socket whose path belongs to the registry
}

// PathIdentity tells a socket file from another that has taken its path.
type PathIdentity struct {
	Path     string `json:"path"`
	Device   uint64 `json:"dev"`
	Inode    uint64 `json:"ino"`
	Modified int64  `json:"mtime"` // nanoseconds
}

// Inheritance is the payload of Sockets. A long list takes several frames.
type Inheritance struct {
	Sockets []Socket `json:"sockets"`
	Last    bool     `json:"last"`
}

// Joining is the payload of Join.
type Joining struct {
	Version uint16 `json:"version"`
	Pid     int    `json:"pid"`
}

// Wanting is the payload of Want.
type Wanting struct {
	States []string `json:"states"`
}

// StateName is the payload of State and, with Bytes, of StateEnd.
type StateName struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes,omitempty"`
}

// Completion is the payload of Complete.
type Completion struct {
	States int `json:"states"`
	Conns  int `json:"conns"`
}

// Refusal is the payload of Refuse.
type Refusal struct {
	Reason  string `json:"reason"`
	Version bool   `json:"version,omitempty"` // they share no version of the protocol
}

// Notice is the payload of Signal.
type Notice struct {
	Stop bool `json:"stop"` // end; otherwise split
}

// Relaying is the payload of Relay. The descriptors are the link, and those that
// were received over it for frames that are not whole yet.
type Relaying struct {
	Pid      int    `json:"pid"`                // of the process at the other end
	Buffered []byte `json:"buffered,omitempty"` // received and not dealt with
}

// Message returns a frame of the kind with v as its payload.
func Message(kind Kind, v any, descriptors ...int) (Frame, error) {
	p, err := json.Marshal(v)
	if err != nil {
		return Frame{}, fmt.Errorf("encode %v: %w", kind, err)
	}
	return Frame{Kind: kind, Payload: p, Descriptors: descriptors}, nil
}

// Decode decodes the payload of f, which must carry the given number of
// descriptors, into v. Fields that this version does not know are ignored.
func (f Frame) Decode(v any, descriptors int) error {
	if len(f.Descriptors) != descriptors {
		return fmt.Errorf("%w: %v with %d descriptors instead of %d", ErrMalformed, f.Kind, len(f.Descriptors), descriptors)
	}
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("%w: %v: %v", ErrMalformed, f.Kind, err)
	}
	return nil
}
