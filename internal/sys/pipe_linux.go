package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// GrowPipe asks for a pipe of a mebibyte, the most that an unprivileged process
// may have (pipe(7)). If it is refused, the pipe is as it was.
func GrowPipe(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
	}
}
