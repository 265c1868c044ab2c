package orphans

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Adopted says whether Adopt works here.
const Adopted = true

// Adopt makes this process the parent of descendants whose own parent ends
// (PR_SET_CHILD_SUBREAPER of prctl(2)), so that they can be waited for, and are not
// left to a process 1 that may reap nobody.
func Adopt() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(fmt.Sprintf("PR_SET_CHILD_SUBREAPER: %v", err))
	}
}
