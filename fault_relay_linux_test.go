package mitosis

import (
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
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*wire.MaxDescriptors))
	for {
		n, oobn, _, _, err := from.ReadMsgUnix(b, oob)
		if err != nil || n == 0 {
			return
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
			fds, _ = unix.ParseUnixRights(&messages[0])
		}
		err = r.write(to, b[:n], oob[:oobn], dribble)
		wire.CloseDescriptors(fds)
		if err != nil {
			return
		}
	}
}

func (r *relay) write(to *net.UnixConn, b, rights []byte, dribble bool) error {
	if len(rights) > 0 {
		// The descriptors' numbers are this process's now.
		if _, _, err := to.WriteMsgUnix(b[:1], rights, nil); err != nil {
			return err
		}
		b = b[1:]
	}
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
