// Package soak is a long test, and nothing else: one program with everything that
// the library can hand over is restarted every few hundred milliseconds, under
// load and with faults, and every byte of its clients is checked.
//
//	go test ./internal/soak                               # four seconds
//	go test ./internal/soak -run Soak -soak=10m -v        # as long as one likes
//	go test ./internal/soak -run Soak -soak.seed=1234 -v  # the same choices again
//
// The go command ends tests after ten minutes and one; for a longer soak give it
// -timeout too. At the end memory, descriptors, goroutines and processes have to be
// what they were after the first few restarts.
package soak
