// Package wire is the control link between two generations: frames and the
// descriptors that ride on them, and nothing else. It knows neither sockets nor
// processes.
//
// A frame is a header of eight bytes and a payload. The header holds, in network
// byte order, the kind (1 byte), a reserved zero (1), the number of descriptors
// that ride on the frame (2), and the length of the payload (4). A receiver skips
// a frame of a kind that it does not know if the kind has the Optional bit, and
// refuses the link otherwise.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what a frame means.
type Kind uint8

// Optional is the bit of those kinds that a receiver may skip.
const Optional Kind = 0x80

// The frames, in the order in which they appear on the link.
const (
	Hello    Kind = 1 + iota // old to new, written before the new process starts: who is calling
	Sockets                  // old to new: what was inherited by exec
	Join                     // new to old: the version that the new process chose
	Want                     // new to old: warm-up is over; the states that it can load
	State                    // old to new: one named state, with the reading end of its pipe
	StateEnd                 // old to new: how many bytes that state had
	Conns                    // old to new: live connections, with their descriptors
	Data                     // old to new: the bytes of the connections in the last Conns, or of a Forward
	Complete                 // old to new: all that moves has been sent
	Ready                    // new to old: all that moved has arrived and was taken up
	Commit                   // old to new, with the reading end of the pipe that holds the token
	Ack                      // new to old: the token is taken, the new process owns everything
	Forward                  // old to new, after the commit: a connection that was accepted before
	Refuse                   // new to old, at any time before Ack: why it cannot go on

	Settled = Optional | 1 // new to old, after Ack: the PID file is written
	Signal  = Optional | 2 // old to new, after Ack: a signal that came too late for the old one
	Relay   = Optional | 3 // old to new, after Ack: the link to a still older process, which drains
)

var kindNames = map[Kind]string{
	Hello: "HELLO", Sockets: "SOCKETS", Join: "JOIN", Want: "WANT", State: "STATE", StateEnd: "STATEEND",
	Conns: "CONNS", Data: "DATA", Complete: "COMPLETE", Ready: "READY", Commit: "COMMIT", Ack: "ACK", Forward: "FORWARD",
	Refuse: "REFUSE", Settled: "SETTLED", Signal: "SIGNAL", Relay: "RELAY",
}

// String returns the name of the kind as the documents write it.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("frame kind %#02x", uint8(k))
}

// Kinds returns every kind that this version knows.
func Kinds() []Kind {
	kinds := make([]Kind, 0, len(kindNames))
	for k := Hello; k <= Refuse; k++ {
		kinds = append(kinds, k)
	}
	return append(kinds, Settled, Signal, Relay)
}

func (k Kind) known() bool { _, ok := kindNames[k]; return ok }

const (
	headerSize = 8

	// MaxPayload is the largest payload of a frame, in bytes.
	MaxPayload = 1 << 20

	// MaxDescriptors is how many descriptors one frame can carry: SCM_MAX_FD of
	// Linux (unix(7)), the smallest limit among the systems.
	MaxDescriptors = 253
)

// ErrMalformed is what every error about the form of a frame wraps.
var ErrMalformed = errors.New("malformed frame")

// Frame is one message on the link. Descriptors of a frame to be sent stay the
// sender's; those of a received frame are the receiver's to close.
type Frame struct {
	Kind        Kind
	Payload     []byte
	Descriptors []int
}

// header is a decoded frame header.
type header struct {
	kind        Kind
	descriptors int
	length      int
}

// appendHeader appends the header of f to b.
func (f Frame) appendHeader(b []byte) []byte {
	b = append(b, byte(f.Kind), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.Descriptors)))
	return binary.BigEndian.AppendUint32(b, uint32(len(f.Payload)))
}

// check refuses a frame that the link cannot carry.
func (f Frame) check() error {
	if len(f.Payload) > MaxPayload {
		return fmt.Errorf("%w: %v has a payload of %d bytes, the limit is %d", ErrMalformed, f.Kind, len(f.Payload), MaxPayload)
	}
	if len(f.Descriptors) > MaxDescriptors {
		return fmt.Errorf("%w: %v has %d descriptors, the limit is %d", ErrMalformed, f.Kind, len(f.Descriptors), MaxDescriptors)
	}
	return nil
}

// parseHeader decodes the header at the start of b, which must be whole.
func parseHeader(b []byte) (header, error) {
	h := header{
		kind:        Kind(b[0]),
		descriptors: int(binary.BigEndian.Uint16(b[2:])),
		length:      int(binary.BigEndian.Uint32(b[4:])),
	}
	switch {
	case b[1] != 0:
		return h, fmt.Errorf("%w: reserved byte of %v is %#02x", ErrMalformed, h.kind, b[1])
	case !h.kind.known() && h.kind&Optional == 0:
		return h, fmt.Errorf("%w: unknown %v", ErrMalformed, h.kind)
	case h.length > MaxPayload:
		return h, fmt.Errorf("%w: %v announces %d bytes, the limit is %d", ErrMalformed, h.kind, h.length, MaxPayload)
	case h.descriptors > MaxDescriptors:
		return h, fmt.Errorf("%w: %v announces %d descriptors, the limit is %d", ErrMalformed, h.kind, h.descriptors, MaxDescriptors)
	}
	return h, nil
}
