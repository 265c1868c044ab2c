//go:build linux || freebsd || netbsd || dragonfly || aix

package sys

import "golang.org/x/sys/unix"

var keepAliveOptions = []option{
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
}
