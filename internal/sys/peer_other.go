//go:build !linux

package sys

import "errors"

// PeerIDs is not supported here.
func PeerIDs(int) (uid, gid int, err error) { return -1, -1, errors.ErrUnsupported }
