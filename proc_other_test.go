//go:build unix && !linux

package mitosis

import "strconv"

func nameDescriptor(fd int) string { return strconv.Itoa(fd) }

// childrenOf knows nothing here.
func childrenOf(int) []string { return nil }
