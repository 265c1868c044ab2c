package mitosis

import (
	"context"
	"errors"
	"os"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

var _ socket = (*file)(nil)

// file is a plain file, pipe or other descriptor. The registry keeps no duplicate
// of it: when the application closes it, it is closed.
type file struct {
	*registration
	inner *os.File
}

func newFile(r *registration, f *os.File) *file { return &file{registration: r, inner: f} }

func (f *file) describe() wire.Socket {
	return wire.Socket{Name: f.name, Type: typeFile, Network: f.network, Address: f.address}
}

func (f *file) duplicate() (int, error)           { return duplicateFile(f.inner) }
func (f *file) freeze()                           {}
func (f *file) awaitFrozen(context.Context) error { return nil }
func (f *file) open()                             {}
func (f *file) supersede()                        {}

// discard leaves the file to the application, whose it is.
func (f *file) discard() error { return nil }

// duplicateFile returns a new descriptor for f. If f is closed the error matches
// os.ErrClosed, which that of a raw connection does not.
func duplicateFile(f *os.File) (int, error) {
	fd, err := sys.Duplicate(f)
	if err != nil {
		if _, closed := f.Stat(); errors.Is(closed, os.ErrClosed) {
			err = closed
		}
	}
	return fd, err
}

// fileAddr is the name of a file where a socket has its address.
type fileAddr string

func (fileAddr) Network() string  { return "file" }
func (a fileAddr) String() string { return string(a) }
