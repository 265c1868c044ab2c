//go:build !unix

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// generations cannot exist here: there is nothing to restart with.
type generations struct {
	reports <-chan report
	first   chan error
}

func startGenerations(_, _ *os.File, _ ...string) (*generations, error) {
	return nil, fmt.Errorf("restart: %w", errors.ErrUnsupported)
}

func (*generations) restart(int, syscall.Signal) error { return errors.ErrUnsupported }

func (*generations) stop(syscall.Signal) error { return errors.ErrUnsupported }

// foreground serves: without restarts the first generation is the last.
func foreground(arguments []string) error {
	c, err := parseFlags(os.Args[0], arguments)
	if err != nil {
		return err
	}
	return serve(c)
}
