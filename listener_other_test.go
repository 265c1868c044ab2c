//go:build unix && !linux

package mitosis

import (
	"errors"
	"os"
)

func memoryFile(string) (*os.File, error) { return nil, errors.ErrUnsupported }
