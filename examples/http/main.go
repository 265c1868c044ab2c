// Command http is a web service that restarts without losing a request or a connection.
//
//	go run ./examples/http
//
// serves on http://127.0.0.1:8080/ and says how to restart and to stop it. Open that address in a browser: the page
// asks the service all the time, over one connection, and has a button that restarts it. Without a browser, send the
// process SIGHUP while something like
//
//	curl --rate 10/s -s -d hello 'http://127.0.0.1:8080/hit?[1-1000]'
//
// is running. Every answer names the generation and the process that gave it, the client's end of the connection, and
// a hit counter that survives restarts.
//
// With -demo it needs nothing else: it starts the service, drives clients at it that notice every lost request and
// every closed connection, restarts it ten times and says what the clients saw; the exit status is 1 if they noticed
// anything.
//
// A program that was installed is started anew by its path, so install the new version over the old one (by rename)
// and send SIGHUP. If the new one does not come up, the old one serves on.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// config is what the command line says.
type config struct {
	address string
	pidFile string
	drain   time.Duration

	demo     bool
	restarts int
	clients  int
	every    time.Duration
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
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

func run(c config) error {
	switch {
	case c.demo:
		return demo(os.Stdout, c)
	case !isAttended() && startedByGoRun():
		return foreground(os.Args[1:])
	}
	return serve(c)
}

func parseFlags(program string, arguments []string) (config, error) {
	var c config
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.StringVar(&c.address, "addr", "127.0.0.1:8080", "`address` to serve on")
	flags.StringVar(&c.pidFile, "pidfile", "", "`file` that holds the process id of the generation that serves")
	flags.DurationVar(&c.drain, "drain", 10*time.Second, "how long requests may take that are under way when a generation ends")
	flags.BoolVar(&c.demo, "demo", false, "restart a service of its own under traffic, and say what its clients saw")
	flags.IntVar(&c.restarts, "restarts", 10, "with -demo: `number` of restarts")
	flags.IntVar(&c.clients, "clients", 24, "with -demo: `number` of clients")
	flags.DurationVar(&c.every, "every", time.Second, "with -demo: time between restarts")
	if err := flags.Parse(arguments); err != nil {
		return c, err
	}
	if err := c.check(flags.Args()); err != nil {
		fmt.Fprintln(flags.Output(), "http:", err)
		return c, err
	}
	return c, nil
}

func (c config) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is not a flag", rest[0])
	case c.drain <= 0:
		return errors.New("-drain has to be more than nothing")
	case c.every < 0:
		return errors.New("-every is negative")
	case c.restarts < 0:
		return errors.New("-restarts is negative")
	case c.clients < 1:
		return errors.New("-clients: at least one is needed")
	}
	return nil
}

// say writes a line for people to read. Nobody is left to tell if that fails.
func say(w io.Writer, format string, values ...any) { _, _ = fmt.Fprintf(w, format+"\n", values...) }
