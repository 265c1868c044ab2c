// Command websocket is a chat over WebSockets whose people stay connected while it restarts.
//
//	cd examples/websocket && go build && ./websocket
//
// serves on http://127.0.0.1:8080/, a page that joins the room "lobby". Open it in two windows, type, and send the
// process SIGHUP: the new process says that it has taken over, the numbers of the messages go on without a gap, and no
// browser has connected anew. SIGTERM stops it; the browsers are told 1001, "going away". A client of another kind joins
// with
//
//	ws://127.0.0.1:8080/ws?room=lobby&name=anna
//
// sends text, and gets messages of the form "number name text". The messages of a room are numbered from 1, without a
// gap, and all members get them in that order. GET /status tells which process serves.
//
// # How a WebSocket goes through a restart
//
//   - The handler that takes the connection over gives it to [mitosis.Registry.AddConn] before it answers 101, since a
//     connection that comes too late to travel can then still go to the next generation as the request that it is; see
//     server.join.
//   - The reader calls Mark after each frame that it has dealt with; see server.read. A frame that is half read travels
//     as bytes, a message of several frames that is half read as a part of the state.
//   - What is to be sent waits in a queue that is a part of the state. No Write is under way when that is saved; see
//     server.
//   - The next generation finds the connections with [mitosis.Registry.Conns].
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
)

const (
	stopTimeout   = 3 * time.Second // for clients to take what a server that stops has for them
	headerTimeout = 5 * time.Second // for a request to send its header
)

// config is what the command line says.
type config struct {
	address string
	pidFile string
	message int // bytes that a message may have
	queue   int // bytes that may wait for one client
}

func main() {
	c, err := parseFlags(os.Args[0], os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2) // the flag set has said why
	}
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "websocket:", err)
		os.Exit(1)
	}
}

func parseFlags(program string, arguments []string) (config, error) {
	var c config
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.StringVar(&c.address, "addr", "127.0.0.1:8080", "`address` to serve on")
	flags.StringVar(&c.pidFile, "pidfile", "", "`file` that holds the process id of the generation that serves")
	flags.IntVar(&c.message, "message", 4<<20, "`bytes` that a message may have")
	flags.IntVar(&c.queue, "queue", 16<<20, "`bytes` that may wait for a client before it is dropped")
	if err := flags.Parse(arguments); err != nil {
		return c, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("%q is not a flag", flags.Arg(0))
	case c.message < 1:
		err = errors.New("-message is not positive")
	case c.queue < 1:
		err = errors.New("-queue is not positive")
	}
	if err != nil {
		fmt.Fprintln(flags.Output(), "websocket:", err)
	}
	return c, err
}

// run is the life of one generation.
func run(c config) error {
	m, err := mitosis.Init(mitosis.Options{PIDFile: c.pidFile})
	if err != nil {
		return err
	}
	defer m.Close()
	s, err := newServer(m, c)
	if err != nil {
		return err
	}
	if err := m.Ready(context.Background()); err != nil {
		return err
	}

	s.start()
	web := &httpx.Server{Server: &http.Server{Handler: newHandler(s), ReadHeaderTimeout: headerTimeout}}
	ctx, fail := context.WithCancelCause(context.Background())
	go func() {
		if err := web.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}()
	fmt.Printf("generation %d, pid %d: serving http://%s/\n", m.Generation(), os.Getpid(), s.listener.Addr())

	err = m.Wait(ctx)
	switch {
	case errors.Is(err, mitosis.ErrSuperseded):
		_ = web.Shutdown(context.Background()) // it has logged what was cut at the limit
		s.running.Wait()                       // all of it ends by itself
	case errors.Is(err, mitosis.ErrStopped):
		s.stop(stopTimeout)
		_ = web.Shutdown(context.Background())
	default:
		return err
	}
	fmt.Printf("generation %d, pid %d: ended\n", m.Generation(), os.Getpid())
	return nil
}
