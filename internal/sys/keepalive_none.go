//go:build unix && !(linux || freebsd || netbsd || dragonfly || aix || darwin)

package sys

// Here keep-alive times belong to the system, not to a socket (OpenBSD), or have
// no portable name.
var keepAliveOptions []option
