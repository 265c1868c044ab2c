//go:build unix && !linux

package httpx_test

// becomeSubreaper does nothing: elsewhere process 1 reaps orphans.
func becomeSubreaper() {}

func childrenRemain() bool { return false }
