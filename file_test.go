//go:build unix

package mitosis

import (
	"fmt"
	"os"
)

func openPlannedFile(s plannedSocket) (*os.File, error) {
	switch s.Network {
	case "append":
		return os.OpenFile(s.Address, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	case "read":
		return os.Open(s.Address)
	}
	return nil, fmt.Errorf("unknown kind of file: %q", s.Network)
}
