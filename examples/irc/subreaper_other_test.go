//go:build unix && !linux

package main

// becomeSubreaper does nothing: process 1 reaps the orphans.
func becomeSubreaper() (orphansAreOurs bool) { return false }
