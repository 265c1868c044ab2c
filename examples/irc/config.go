package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// secretVariable is the environment variable with the secret for !auth. It stays in the environment on purpose:
// the next generation needs it too.
const secretVariable = "IRC_BOT_SECRET"

// config is what the flags say.
type config struct {
	Server    string
	Nick      string
	User      string
	RealName  string
	Channels  []wantedChannel
	Owners    owners
	PIDFile   string
	Pace      pace
	Rejoin    time.Duration
	Reconnect time.Duration
	Regain    time.Duration
}

// A wantedChannel is a channel from the flags.
type wantedChannel struct {
	Name, Key string
}

// parseFlags reads the command line and the secret.
func parseFlags(name string, arguments []string) (config, error) {
	var c config
	var channels, secretFile string
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&c.Server, "server", "localhost:6667", "`host:port` of the server")
	flags.StringVar(&c.Nick, "nick", "mitosis", "nick")
	flags.StringVar(&c.User, "user", "mitosis", "user name")
	flags.StringVar(&c.RealName, "realname", version, "real name")
	flags.StringVar(&channels, "channels", "#mitosis", "`channels`, separated by commas, each with its key after a space if it has one")
	flags.Var(&c.Owners, "owner", "`who` may command the bot: account:NAME, or nick!user@host with * and ?; may be repeated")
	flags.StringVar(&secretFile, "secret-file", "", "`file` with the secret for !auth (or set "+secretVariable+")")
	flags.StringVar(&c.PIDFile, "pidfile", "", "`file` for the process number")
	flags.DurationVar(&c.Pace.Penalty, "penalty", 2*time.Second, "time between lines once a burst is used up; 0 for no limit")
	flags.IntVar(&c.Pace.Burst, "burst", 5, "lines that may go out at once")
	flags.DurationVar(&c.Rejoin, "rejoin", 10*time.Second, "wait before going back into a channel")
	flags.DurationVar(&c.Reconnect, "reconnect", 2*time.Second, "wait before connecting again; doubled with each failure")
	flags.DurationVar(&c.Regain, "regain", time.Minute, "time between attempts to get the nick back")
	flags.SetOutput(io.Discard) // main prints the error
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stderr)
			flags.Usage()
		}
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if _, _, err := net.SplitHostPort(c.Server); err != nil {
		c.Server = net.JoinHostPort(strings.Trim(c.Server, "[]"), "6667")
	}
	for _, word := range []string{c.Nick, c.User} {
		if word == "" || strings.ContainsAny(word, " !@:,\r\n\x00") {
			return c, fmt.Errorf("%q is neither a nick nor a user name", word)
		}
	}
	if c.Pace.Penalty < 0 || c.Pace.Burst < 1 || c.Rejoin <= 0 || c.Reconnect <= 0 || c.Regain <= 0 {
		return c, errors.New("times and the burst must be positive")
	}
	var err error
	if c.Channels, err = parseChannels(channels); err != nil {
		return c, err
	}
	return c, c.readSecret(secretFile)
}

func parseChannels(list string) (channels []wantedChannel, err error) {
	for item := range strings.SplitSeq(list, ",") {
		switch words := strings.Fields(item); len(words) {
		case 0:
		case 1:
			channels = append(channels, wantedChannel{Name: words[0]})
		case 2:
			channels = append(channels, wantedChannel{Name: words[0], Key: words[1]})
		default:
			return nil, fmt.Errorf("%q is not a channel with a key", item)
		}
	}
	for _, c := range channels {
		if c.Name[0] == ':' || c.Key != "" && c.Key[0] == ':' {
			return nil, fmt.Errorf("%q is not a channel", c.Name)
		}
	}
	return channels, nil
}

func (c *config) readSecret(file string) error {
	secret, found := os.LookupEnv(secretVariable)
	if file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		secret, found = strings.TrimRight(string(content), "\r\n"), true
	}
	if !found {
		return nil
	}
	return c.Owners.setSecret(secret)
}
