//go:build !unix

package wire

import "errors"

func (l *Link) writeFirst(b []byte, descriptors []int) (int, error) {
	if len(descriptors) > 0 {
		return 0, errors.ErrUnsupported
	}
	return l.conn.Write(b)
}

func (l *Link) readSome(b []byte) (int, error) { return l.conn.Read(b) }

// CloseDescriptors closes the descriptors of a received frame; there are none here.
func CloseDescriptors([]int) {}
