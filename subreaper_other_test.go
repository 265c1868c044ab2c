//go:build unix && !linux

package mitosis

// becomeSubreaper does nothing: process 1 reaps the orphans.
func becomeSubreaper() {}
