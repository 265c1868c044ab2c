package mitosis

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// relay stands in the link and passes on what comes, in the direction away from
// this process byte by byte once faulty.slow is set.
type relay struct {
	near, far *net.UnixConn
	close     sync.Once
}

// interposeAt puts a relay in front of an end of the link, and returns the end to
// use in its place. That is the one of the new process, which this process is or
// is going to start.
func interposeAt(fd int, inOldProcess bool) int {
	near, end, err := sys.Pair()
	if err != nil {
		panic(err)
	}
	far, err := sys.UnixConn(fd)
	if err != nil {
		panic(err)
	}
	r := &relay{near: near, far: far}
	go r.pass(near, far, inOldProcess)
	go r.pass(far, near, !inOldProcess)
	return end
}

// pass passes on until the link ends.
func (r *relay) pass(to, from *net.UnixConn, dribble bool) {
	defer r.close.Do(func() { r.near.Close(); r.far.Close() })
	for {
		frame, rights, err := readFrame(from)
		if err == nil {
			err = r.write(to, frame, rights, dribble)
			closeRights(rights)
		}
		if err != nil {
			return
		}
	}
}

// readFrame reads exactly one frame: descriptors belong to its first byte.
func readFrame(from *net.UnixConn) (frame, rights []byte, err error) {
	const headerSize = 8
	frame, rights = make([]byte, headerSize), make([]byte, unix.CmsgSpace(4*wire.MaxDescriptors))
	n, oobn, _, _, err := from.ReadMsgUnix(frame[:1], rights)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil {
		_, err = io.ReadFull(from, frame[1:])
	}
	if err == nil {
		frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame[4:]))...)
		_, err = io.ReadFull(from, frame[headerSize:])
	}
	return frame, rights[:oobn], err
}

func (r *relay) write(to *net.UnixConn, b, rights []byte, dribble bool) error {
	// The descriptors' numbers are this process's now.
	if _, _, err := to.WriteMsgUnix(b[:1], rights, nil); err != nil {
		return err
	}
	b = b[1:]
	for len(b) > 0 {
		n := len(b)
		if dribble && faulty.slow.Load() {
			n = 1
			runtime.Gosched()
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func closeRights(rights []byte) {
	if messages, err := unix.ParseSocketControlMessage(rights); err == nil && len(messages) > 0 {
		fds, _ := unix.ParseUnixRights(&messages[0])
		wire.CloseDescriptors(fds)
	}
}
