package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
)

// headerLimit is how long a request may take to send its header.
const headerLimit = 5 * time.Second

// serve is the life of one generation, from its start to its end.
func serve(c config) error {
	told, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()
	// An end in order goes on when it is asked for, and is over soon; whoever asks a second time means at once.
	context.AfterFunc(told, restore)

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
	pid := os.Getpid()
	server := &httpx.Server{
		Server: &http.Server{
			Handler:           newHandler(&service{generation: m.Generation(), pid: pid, hits: hits}),
			ReadHeaderTimeout: headerLimit,
		},
		DrainTimeout: c.drain,
	}
	// Whatever takes long at a start (configuration, caches, a database) has its place here: the old generation
	// serves meanwhile.
	if err := m.Ready(context.Background()); err != nil {
		return err
	}

	attendant.report(pid, ln.Addr().String())
	attendant.watch()
	if attendant == nil {
		say(os.Stdout, "generation %d, pid %d: serving http://%s/  (restart: kill -HUP %[2]d, stop: kill %[2]d)", m.Generation(), pid, ln.Addr())
	} else {
		say(os.Stdout, "generation %d, pid %d: serving http://%s/", m.Generation(), pid, ln.Addr())
	}
	hits.collect()
	ctx, fail := context.WithCancelCause(context.Background())
	go func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}()

	err = m.Wait(ctx)
	switch {
	case errors.Is(err, mitosis.ErrSuperseded):
		say(os.Stdout, "generation %d, pid %d: the next one serves, draining", m.Generation(), pid)
		_ = server.Shutdown(context.Background()) // it has logged what was cut at the limit
		say(os.Stdout, "generation %d, pid %d: ended", m.Generation(), pid)
		return hits.handOn()
	case errors.Is(err, mitosis.ErrStopped):
		_ = server.Shutdown(context.Background())
		say(os.Stdout, "generation %d, pid %d: stopped after %d hits", m.Generation(), pid, hits.count())
		attendant.report(0, "")
		return nil
	}
	return err
}
