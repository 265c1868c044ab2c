package sys

import "golang.org/x/sys/unix"

var keepAliveOptions = []option{
	{unix.IPPROTO_TCP, unix.TCP_KEEPALIVE}, // the idle time
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
}
