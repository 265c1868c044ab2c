// Package inprocess is the door through which package mitosistest reaches into
// package mitosis. The registries go through it as any, so that neither has to
// import the other.
package inprocess

import "context"

// New returns a *mitosis.Registry of generation 1 that has nothing to do with the
// environment, the signals or the one registry of this process. options is a
// mitosis.Options.
var New func(options any) (registry any, err error)

// Split splits a registry that New or Split has returned. next plays the part of
// the new process; it gets the *mitosis.Registry that Init would have returned
// there.
var Split func(ctx context.Context, old any, next func(registry any) error) (registry any, err error)
