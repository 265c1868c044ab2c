package compat

import "golang.org/x/sys/unix"

// adoptOrphans makes generations whose parent has ended children of this process.
func adoptOrphans() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
}

const adopts = true
