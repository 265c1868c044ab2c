package mitosis

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// nameDescriptor says what a descriptor of this process refers to.
func nameDescriptor(fd int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err.Error()
	}
	return name
}

// childrenOf returns the children of a process, zombies included, with their state.
func childrenOf(pid int) []string {
	var children []string
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			children = append(children, filepath.Base(filepath.Dir(path))+" "+fields[0])
		}
	}
	return children
}
