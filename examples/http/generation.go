package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/bhuthesh/mitosis"
)

// serve is the life of one generation, from its start to its end.
func serve(c config) error {
	interrupted, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()

	m, err := mitosis.Init(mitosis.Options{PIDFile: c.pidFile})
	if err != nil {
		return err
	}
	defer m.Close()
	ln, err := m.Listen("web", "tcp", c.address)
	if err != nil {
		return err
	}
	hits, err := countHits(m)
	if err != nil {
		return err
	}
	attendant, err := findAttendant(m)
	if err != nil {
		return err
	}
	// Whatever takes long at a start (configuration, caches, a database) has its place here: the old generation
	// serves meanwhile.
	if err := m.Ready(context.Background()); err != nil {
		return err
	}

	pid := os.Getpid()
	attendant.report(pid, ln.Addr().String())
	attendant.watch()
	if attendant == nil {
		say(os.Stdout, "generation %d, pid %d: serving http://%s/  (restart: kill -HUP %[2]d, stop: kill %[2]d)", m.Generation(), pid, ln.Addr())
	} else {
		say(os.Stdout, "generation %d, pid %d: serving http://%s/", m.Generation(), pid, ln.Addr())
	}
	hits.collect()
	server := newServer(m.Done(), &service{generation: m.Generation(), pid: pid, hits: hits})
	ctx, fail := context.WithCancelCause(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(ln); !errors.Is(err, net.ErrClosed) {
			fail(err)
		}
	}()

	err = m.Wait(ctx)
	ln.Close()
	<-served
	switch {
	case errors.Is(err, mitosis.ErrSuperseded):
		say(os.Stdout, "generation %d, pid %d: the next one serves, draining", m.Generation(), pid)
		server.drain(interrupted, c.drain)
		if interrupted.Err() != nil {
			restore() // whoever asks a second time means it
		}
		server.finish()
		say(os.Stdout, "generation %d, pid %d: ended", m.Generation(), pid)
		return hits.handOn()
	case errors.Is(err, mitosis.ErrStopped):
		restore()
		server.finish()
		say(os.Stdout, "generation %d, pid %d: stopped after %d hits", m.Generation(), pid, hits.count())
		attendant.report(0, "")
		return nil
	}
	return err
}
