//go:build !linux

package main

// resetsSent cannot tell here.
func resetsSent() int { return -1 }
