//go:build unix

package main

import "syscall"

func setReceiveBuffer(fd uintptr, n int) {
	if err := syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, n); err != nil {
		panic(err)
	}
}
