//go:build !linux

package variants

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Adopt makes this process the parent of those whose own parent ends; here that is left to the system.
func Adopt() error { return nil }

// Watch returns a channel that is closed when the process has ended, as far as a look every few
// milliseconds can tell.
func Watch(pid int) (<-chan struct{}, error) {
	if !alive(pid) {
		return nil, fmt.Errorf("watch process %d: it has ended", pid)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for alive(pid) {
			<-tick.C
		}
	}()
	return gone, nil
}

func reap(int, []int) {}

// children returns the child processes of a process.
func children(pid int) ([]int, error) {
	list, err := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(list)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, child)
	}
	return pids, nil
}
