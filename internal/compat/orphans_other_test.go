//go:build unix && !linux

package compat

func adoptOrphans() {}

const adopts = false
