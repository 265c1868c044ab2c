// Command irc is a bot that stays in its channels while it restarts.
//
// It answers a few questions (!ping, !uptime, !generation, !count, !seen; !help lists them), comes back after a KICK,
// gets its nick back when another had it, and connects again when the connection is truly lost:
//
//	irc -server irc.example.net:6667 -nick robin -channels '#one,#two key' -owner account:bob -pidfile bot.pid
//
// Install a new version over the old one and send SIGHUP, or say !restart. The new process gets the connection, the
// memory and every line that is still to be said; the server and the people see nothing of it, not even a pause
// that they could notice. If the new version does not come up, the old one goes on and says so.
//
// # Who is the owner
//
// !restart is for the owner alone. A nick proves nothing: whoever comes first has it. There are three other ways,
// and -owner can be given several times:
//
//   - -owner account:NAME trusts the services of the network: the account somebody is logged in to, as the server
//     itself puts it on each message (IRCv3 account-tag), or says when asked (WHOX). It is worth as much as
//     the account's password. On a server with neither it is worth nothing, and lets nobody in.
//   - -owner 'nick!user@host' trusts the address that the server shows. It is worth as much as the host is one's own:
//     a good deal for a cloak that services have set or a machine of one's own, little for a dial-up provider
//     with stars in the mask. User names are chosen freely by whoever has the host.
//   - A secret, in the environment variable IRC_BOT_SECRET or in the file of -secret-file, makes the owner of whoever
//     sends it in private with !auth, for ten minutes and as long as that nick!user@host is not seen to leave.
//     It is worth as much as the way to the server: the line is not encrypted, and the server reads it.
//
// # What it does not do
//
// There is no TLS, and no flag for it: the keys of a TLS connection do not travel to the next process yet, and a
// bot that had to connect again would not be worth its name. So there is no SASL either, which should not be done
// in the clear. Use it on a loopback or a private network, or through a tunnel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/bhuthesh/mitosis"
)

const dialTimeout = 30 * time.Second

func main() {
	if err := run(); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "irc:", err)
		os.Exit(1)
	}
}

func run() error {
	config, err := parseFlags(os.Args[0], os.Args[1:])
	if err != nil {
		return err
	}
	log := slog.Default()
	m, err := mitosis.Init(mitosis.Options{PIDFile: config.PIDFile, Logger: log})
	if err != nil {
		return err
	}
	defer m.Close()

	b := newBot(config, log)
	b.generation = m.Generation()
	b.superseded = m.Done()
	b.split = func(ctx context.Context) error { return m.Split(ctx) }
	b.dial = func(ctx context.Context) (conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		c, err := m.Dial(ctx, "irc", "tcp", config.Server)
		if err != nil {
			return nil, err // not c, which would be an interface with nothing in it
		}
		return c, nil
	}
	if err := m.State("memory", mitosis.Locked(&b.mu, mitosis.Gob(&b.memory))); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := m.Ready(ctx); err != nil {
		return err
	}
	b.resume(time.Now())
	log.Info("ready", "generation", b.generation, "process", os.Getpid())

	done := make(chan struct{})
	go func() {
		defer close(done)
		b.run(ctx)
	}()
	err = m.Wait(ctx)
	switch {
	case errors.Is(err, mitosis.ErrSuperseded):
		err = nil
	case errors.Is(err, mitosis.ErrStopped):
		err = nil
		if b.goodbye("told to stop") {
			select {
			case <-done:
			case <-time.After(goodbyeTimeout):
			}
		}
		cancel()
	}
	<-done
	return err
}
