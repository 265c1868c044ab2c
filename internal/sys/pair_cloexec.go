//go:build dragonfly || freebsd || linux || netbsd || openbsd

package sys

import "golang.org/x/sys/unix"

func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}
