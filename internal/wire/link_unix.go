//go:build unix

package wire

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

var oobSize = unix.CmsgSpace(MaxDescriptors * 4)

// maxArrived is how many descriptors can have come for the frame that is being
// read and the one behind it. A peer that sends more is after this process's limit.
const maxArrived = 2 * MaxDescriptors

// writeFirst writes the start of b, with the descriptors on its first byte.
func (l *Link) writeFirst(b []byte, descriptors []int) (int, error) {
	if len(descriptors) == 0 {
		return l.conn.Write(b)
	}
	n, _, err := l.conn.WriteMsgUnix(b, unix.UnixRights(descriptors...), nil)
	return n, err
}

// readSome reads some bytes, and takes the descriptors that came with them. The
// net package receives them close-on-exec, atomically where the system can.
func (l *Link) readSome(b []byte) (int, error) {
	if l.oob == nil {
		l.oob = make([]byte, oobSize)
	}
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(b, l.oob)
	if err != nil {
		return 0, err
	}
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(l.oob[:oobn])
		if err != nil {
			return 0, fmt.Errorf("%w: control message: %v", ErrMalformed, err)
		}
		for _, message := range messages {
			if fds, err := unix.ParseUnixRights(&message); err == nil {
				l.arrived = append(l.arrived, fds...)
			}
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		// Also what a process sees that is at its descriptor limit.
		return 0, fmt.Errorf("%w: descriptors were lost (MSG_CTRUNC); is the descriptor limit reached?", ErrMalformed)
	}
	if len(l.arrived) > maxArrived {
		return 0, fmt.Errorf("%w: %d descriptors for frames that are not whole yet", ErrMalformed, len(l.arrived))
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// CloseDescriptors closes the descriptors of a received frame.
func CloseDescriptors(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
