package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// pattern returns n bytes that are no run of the same.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	return b
}

const chunk, chunks = 64 << 10, 40

// stream is a state that no generation holds in memory.
type stream struct {
	fate   string
	loaded int64 // bytes
}

func (s *stream) Save(w io.Writer) error {
	for range chunks {
		if _, err := w.Write(pattern(chunk)); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) Load(r io.Reader) error {
	b := make([]byte, chunk)
	for n := range chunks {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		switch {
		case !bytes.Equal(pattern(chunk), b):
			return fmt.Errorf("chunk %d is not what was saved", n)
		case s.fate == "refuse":
			return errors.New("this version cannot read it")
		case s.fate == "exit in the transfer":
			os.Exit(4)
		}
		s.loaded += int64(len(b))
	}
	return nil
}
