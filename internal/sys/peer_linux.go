package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// PeerIDs returns the effective user and group of the process that made the socket
// pair of which fd is one end.
func PeerIDs(fd int) (uid, gid int, err error) {
	ids, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return -1, -1, os.NewSyscallError("getsockopt", err)
	}
	return int(ids.Uid), int(ids.Gid), nil
}
