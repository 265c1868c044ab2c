// Package sys holds the system calls of the hand-over, each with its portable
// twin. None of them goes through (*os.File).Fd, which would put the shared open
// file description into blocking mode.
package sys

import "os"

// SocketType says what a descriptor is.
type SocketType int

// The types that DescriptorType tells apart.
const (
	NotASocket SocketType = iota
	StreamListener
	Stream
	Packet
)

// Process is a running child.
type Process struct {
	pid  int
	proc *os.Process
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.pid }

// Kill sends SIGKILL, unless the process has been reaped.
func (p *Process) Kill() error { return p.proc.Kill() }

// Wait reaps the process and returns how it ended, as os.ProcessState says it.
func (p *Process) Wait() string {
	state, err := p.proc.Wait()
	if err != nil {
		return "status unknown: " + err.Error() // the application has reaped it itself
	}
	return state.String()
}
