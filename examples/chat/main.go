// Command chat is a chat server of lines over TCP whose people stay connected while it restarts.
//
//	go run ./examples/chat
//
// serves on 127.0.0.1:6000. Try it with two terminals that run "nc 127.0.0.1 6000", and send the process SIGHUP: rooms,
// nicks, history, connections and every line that is on its way are in the new process, and nobody notices. A line that
// begins with a slash is a command: /nick NAME, /join ROOM, /who, /history, /generation, /quit.
//
// Build it before a restart that is to bring a new version: "go run" has a binary of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/bhuthesh/mitosis"
)

// stopTimeout is how long a server that stops waits for clients to take what it has for them.
const stopTimeout = 3 * time.Second

// config is what the command line says.
type config struct {
	address string
	pidFile string
	history int // lines that a room remembers
	limit   int // bytes that wait for one client
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
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func parseFlags(program string, arguments []string) (config, error) {
	var c config
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.StringVar(&c.address, "addr", "127.0.0.1:6000", "`address` to serve on")
	flags.StringVar(&c.pidFile, "pidfile", "", "`file` that holds the process id of the generation that serves")
	flags.IntVar(&c.history, "history", 50, "`number` of lines that a room remembers")
	flags.IntVar(&c.limit, "limit", 512<<10, "`bytes` that may wait for a client before it is dropped")
	if err := flags.Parse(arguments); err != nil {
		return c, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("%q is not a flag", flags.Arg(0))
	case c.history < 0:
		err = errors.New("-history is negative")
	case c.limit < 1:
		err = errors.New("-limit is not positive")
	}
	if err != nil {
		fmt.Fprintln(flags.Output(), "chat:", err)
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
	fmt.Printf("generation %d, pid %d: serving on %s, %d clients\n", m.Generation(), os.Getpid(), s.listener.Addr(), s.count())

	err = m.Wait(context.Background())
	switch {
	case errors.Is(err, mitosis.ErrSuperseded):
		s.running.Wait() // all of it ends by itself
	case errors.Is(err, mitosis.ErrStopped):
		s.stop(stopTimeout)
	default:
		return err
	}
	fmt.Printf("generation %d, pid %d: ended\n", m.Generation(), os.Getpid())
	return nil
}
