package variants

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
)

// goService is this program, serving.
type goService struct {
	address string
	program *program

	mu    sync.Mutex
	known []int // processes of the chain, the newest last
}

// startService starts the way to serve that has this name.
func startService(name string) func(context.Context, string) (Instance, error) {
	return func(ctx context.Context, directory string) (Instance, error) {
		return newService(ctx, directory, name)
	}
}

func newService(ctx context.Context, directory, name string) (*goService, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	program, err := launch(directory, name, executable, serveCommand, name, address)
	if err != nil {
		return nil, err
	}
	s := &goService{address: address, program: program, known: []int{program.pid}}
	if err := program.answers(ctx, address); err != nil {
		_ = s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *goService) Address() string { return s.address }

func (s *goService) Processes() ([]int, error) {
	pid, err := whoami(s.address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.known, pid) {
		s.known = append(s.known, pid)
	}
	return []int{pid}, nil
}

func (s *goService) Restart() error { return send(s.newest(), restartService) }

func (s *goService) Stop() error {
	// A process that does not answer is known already, or is found out below: not all will have ended.
	_, _ = s.Processes()
	s.mu.Lock()
	known := slices.Clone(s.known)
	s.mu.Unlock()
	return errors.Join(s.program.end(s.newest(), syscall.SIGTERM, known), s.complaint())
}

// complaint returns what a process has written of itself if that must never be: a panic, or a data race
// when this program was built to look for them.
func (s *goService) complaint() error {
	written, err := os.ReadFile(s.program.output)
	if err != nil {
		return err
	}
	for _, sign := range []string{"panic:", "fatal error:", "WARNING: DATA RACE"} {
		if at := bytes.Index(written, []byte(sign)); at >= 0 {
			return fmt.Errorf("a process wrote: %s", written[at:min(at+4000, len(written))])
		}
	}
	return nil
}

func (s *goService) newest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[len(s.known)-1]
}
