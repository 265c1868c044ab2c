package main

import "syscall"

func setReceiveBuffer(fd uintptr, n int) {
	if err := syscall.SetsockoptInt(syscall.Handle(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, n); err != nil {
		panic(err)
	}
}
