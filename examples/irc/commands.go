package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/bhuthesh/mitosis"
)

const help = "!ping TOKEN, !uptime, !generation, !count, !seen NICK; for my owner: !restart, and in private !auth SECRET"

// version is the answer to CTCP VERSION.
const version = "a bot of github.com/bhuthesh/mitosis that restarts without leaving"

// heard handles PRIVMSG. The bot never reacts to a NOTICE, so that two bots cannot talk for ever.
func (b *bot) heard(now time.Time, m message) {
	s := &b.memory.Session
	if len(m.Params) != 2 || m.Prefix.User == "" || b.isMe(m.Prefix.Name) {
		return
	}
	from := origin{Prefix: m.Prefix, Account: m.Tags["account"], Target: m.Params[0]}
	text := m.Params[1]
	ctcp := strings.HasPrefix(text, "\x01")
	if name := s.Support.channelOf(from.Target); name != "" {
		c := b.memory.channel(name)
		if c == nil {
			return
		}
		from.Channel = c.Name
		if !ctcp || strings.HasPrefix(text, "\x01ACTION ") {
			c.Messages++
			b.saw(now, c, m.Prefix.Name, "talking")
		}
	} else {
		if !b.isMe(from.Target) {
			return
		}
		from.Target = m.Prefix.Name
	}
	switch {
	case ctcp:
		b.clientRequest(from, strings.Trim(text, "\x01"))
	case strings.HasPrefix(text, "!"):
		command, argument, _ := strings.Cut(text[1:], " ")
		b.command(now, from, strings.ToLower(command), strings.TrimSpace(argument))
	}
}

// clientRequest answers the two client-to-client requests that people make.
func (b *bot) clientRequest(from origin, request string) {
	command, argument, _ := strings.Cut(request, " ")
	switch {
	case command == "VERSION":
		b.push(line("NOTICE", from.Prefix.Name, "\x01VERSION "+version+"\x01"))
	case command == "PING" && len(argument) <= 64:
		b.push(line("NOTICE", from.Prefix.Name, "\x01PING "+argument+"\x01"))
	}
}

func (b *bot) command(now time.Time, from origin, command, argument string) {
	switch command {
	case "help":
		b.reply(from, help)
	case "ping":
		b.reply(from, strings.TrimSpace("pong "+argument))
	case "uptime":
		b.reply(from, fmt.Sprintf("up %s, on this connection %s, in this process %s", span(now.Sub(b.memory.Born)),
			span(now.Sub(b.memory.Session.Since)), span(now.Sub(b.started))))
	case "generation":
		b.reply(from, b.describe())
	case "count":
		if c := b.memory.channel(from.Channel); c != nil {
			b.reply(from, fmt.Sprintf("%d messages in %s since I joined, %s ago", c.Messages, c.Name, span(now.Sub(c.Since))))
		}
	case "seen":
		b.seen(now, from, argument)
	case "auth":
		b.authenticate(now, from, argument)
	case "restart":
		switch b.identify(now, from) {
		case owner:
			b.beginRestart(now, from)
		case unclear:
			b.inquire(now, from)
		default:
			b.refuse(from)
		}
	}
}

func (b *bot) describe() string {
	return fmt.Sprintf("generation %d, process %d", b.generation, os.Getpid())
}

// seen answers from the memory of the channel where it was asked: what happens elsewhere stays there.
func (b *bot) seen(now time.Time, from origin, nick string) {
	c := b.memory.channel(from.Channel)
	switch {
	case c == nil || nick == "":
		b.reply(from, "in a channel: !seen NICK")
	case b.isMe(nick):
		b.reply(from, "here I am")
	default:
		s, ok := c.Seen[b.memory.Session.Support.fold(nick)]
		if !ok {
			b.reply(from, "I have not seen "+nick+" here")
			return
		}
		b.reply(from, fmt.Sprintf("I saw %s %s %s ago", s.Nick, s.What, span(now.Sub(s.When))))
	}
}

func (b *bot) refuse(from origin) {
	b.log.Warn("not the owner", "who", from.Prefix.String(), "account", from.Account)
	b.reply(from, from.Prefix.Name+": only for my owner")
}

// reply answers where the question came from: in the channel for all, in private by a NOTICE.
func (b *bot) reply(to origin, text string) {
	if to.Channel == "" {
		b.push(line("NOTICE", to.Target, text))
	} else {
		b.push(line("PRIVMSG", to.Target, text))
	}
}

// beginRestart splits. The answer is in the memory, so that the next generation gives it.
func (b *bot) beginRestart(now time.Time, from origin) {
	if b.memory.Restart != nil {
		b.reply(from, "I am at it")
		return
	}
	b.log.Info("restart asked for", "who", from.Prefix.String())
	b.memory.Restart = &restart{Origin: from, Generation: b.generation, Asked: now}
	go b.restart(from)
}

// restart must not run in the goroutine that reads: the split waits for that one to come to rest.
func (b *bot) restart(from origin) {
	err := b.split(context.Background())
	if err == nil {
		return
	}
	b.log.Error("restart failed", "error", err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory.Restart = nil
	b.reply(from, fmt.Sprintf("restart failed, still generation %d: %s", b.generation, reason(err)))
}

// reason is the short form of an error for the channel, which need not read paths and process numbers.
func reason(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{mitosis.ErrSplitting, "another restart is under way"},
		{mitosis.ErrChildExited, "the new process exited"},
		{mitosis.ErrTimeout, "it took too long"},
		{mitosis.ErrRefused, "the new process refused"},
		{errors.ErrUnsupported, "not on this platform"},
		{os.ErrNotExist, "the program is gone"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "see my log"
}

// span writes a duration the way people say it.
func span(d time.Duration) string {
	d = max(0, d.Truncate(time.Second))
	days, rest := d/(24*time.Hour), d%(24*time.Hour)
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, rest/time.Hour)
	case rest >= time.Hour:
		return fmt.Sprintf("%dh%dm", rest/time.Hour, rest%time.Hour/time.Minute)
	case rest >= time.Minute:
		return fmt.Sprintf("%dm%ds", rest/time.Minute, rest%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", rest/time.Second)
}
