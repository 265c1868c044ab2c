package main

import (
	"errors"
	"strings"
	"time"
)

// maxNickAttempts is how many nicks the bot tries before it believes that the server does not want it.
const maxNickAttempts = 12

// wantedCapabilities are the IRCv3 extensions that the bot has a use for.
var wantedCapabilities = []string{"account-tag", "chghost"}

var (
	errNoWelcome = errors.New("the server does not finish the registration")
	errSilent    = errors.New("the server has gone silent")
	errNoNick    = errors.New("the server refuses every nick")
)

// begin introduces the bot on a new connection. A server without capabilities ignores CAP or calls it unknown.
func (b *bot) begin(now time.Time) {
	b.memory.Queue.clear()
	b.memory.Session = session{
		Phase: registering, Since: now, Heard: now, Nick: b.config.Nick, Support: defaultSupport(),
	}
	b.urgent(line("CAP", "LS", "302"))
	b.urgent(line("NICK", b.config.Nick))
	b.urgent(line("USER", b.config.User, "0", "*", b.config.RealName))
}

// chores does what is due by the clock and says when something will be due next.
func (b *bot) chores(now time.Time) (time.Duration, error) {
	s := &b.memory.Session
	if s.Attempts > maxNickAttempts {
		return 0, errNoNick
	}
	if s.Phase == registering {
		left := s.Since.Add(registerTimeout).Sub(now)
		if left <= 0 {
			return 0, errNoWelcome
		}
		return left, nil
	}
	wait := idleTimeout
	// due reports whether the time has come, and otherwise sees to it that it is not missed.
	due := func(t time.Time) bool {
		if now.Before(t) {
			wait = min(wait, t.Sub(now))
			return false
		}
		return true
	}
	switch {
	case !s.Pinged.IsZero():
		if due(s.Pinged.Add(pingTimeout)) {
			return 0, errSilent
		}
	case due(s.Heard.Add(idleTimeout)):
		b.urgent(line("PING", b.config.Nick))
		s.Pinged = now
		wait = min(wait, pingTimeout)
	}
	if want := b.wantedNick(); s.Nick != want && due(s.Regain) {
		b.push(line("NICK", want))
		s.Regain = now.Add(b.config.Regain)
		wait = min(wait, b.config.Regain)
	}
	for _, c := range b.memory.Channels {
		if !c.Joined && due(c.Rejoin) {
			join := []string{c.Name}
			if c.Key != "" {
				join = append(join, c.Key)
			}
			b.push(line("JOIN", join...))
			c.Rejoin = now.Add(joinTimeout)
			wait = min(wait, joinTimeout)
		}
	}
	return wait, nil
}

// welcome handles RPL_WELCOME (001), which is the first to say which nick we really have.
func (b *bot) welcome(now time.Time, m message) {
	s := &b.memory.Session
	s.Phase, s.Since, s.Nick = registered, now, m.param(0)
	s.Regain = now.Add(b.config.Regain)
	for _, c := range b.memory.Channels {
		c.Rejoin = now
	}
	b.log.Info("registered", "nick", s.Nick)
}

// wantedNick is the nick from the flags as far as the server takes it.
func (b *bot) wantedNick() string {
	nick := b.config.Nick
	if n := b.memory.Session.Support.NickLength; n > 0 && n < len(nick) {
		nick = nick[:n]
	}
	return nick
}

// nickRefused handles the numerics that refuse a nick. Once registered, we have one, and chores tries again.
func (b *bot) nickRefused(m message) {
	s := &b.memory.Session
	if s.Phase != registering {
		return
	}
	s.Attempts++
	if m.Command == "432" && len(s.Nick) > 9 {
		s.Support.NickLength = 9 // RFC 1459 has no more, and the server has not yet said what it has
	}
	s.Nick = alternative(b.wantedNick(), s.Attempts, s.Support.NickLength)
	b.urgent(line("NICK", s.Nick))
}

// alternative appends underscores, in the last places of the nick if there is no room after it.
func alternative(nick string, n, limit int) string {
	if limit <= 0 {
		limit = 30
	}
	n = min(n, limit-1)
	return nick[:min(len(nick), limit-n)] + strings.Repeat("_", n)
}

// capability handles CAP: capabilities are negotiated before the registration ends, and may come and go later.
func (b *bot) capability(m message) {
	s := &b.memory.Session
	list := strings.Fields(m.last())
	switch strings.ToUpper(m.param(1)) {
	case "LS":
		s.Offered = append(s.Offered, list...)
		if m.param(2) == "*" && len(m.Params) > 3 {
			return // more lines follow
		}
		offered := s.Offered
		s.Offered = nil
		if b.request(offered) {
			return
		}
	case "NEW":
		b.request(list)
		return
	case "ACK":
		if s.Enabled == nil {
			s.Enabled = make(map[string]bool)
		}
		for _, name := range list {
			s.Enabled[strings.TrimPrefix(name, "-")] = name[0] != '-'
		}
	case "DEL":
		for _, name := range list {
			delete(s.Enabled, name)
		}
		return
	case "NAK":
	default:
		return
	}
	if s.Phase == registering {
		b.urgent(line("CAP", "END"))
	}
}

// request asks for those offered capabilities that the bot has a use for, if any.
func (b *bot) request(offered []string) bool {
	var names []string
	for _, want := range wantedCapabilities {
		for _, capability := range offered {
			if name, _, _ := strings.Cut(capability, "="); name == want {
				names = append(names, name)
				break
			}
		}
	}
	if len(names) > 0 {
		b.urgent(line("CAP", "REQ", strings.Join(names, " ")))
	}
	return len(names) > 0
}

// urgent queues what the protocol waits for.
func (b *bot) urgent(text string) {
	b.memory.Queue.Urgent = append(b.memory.Queue.Urgent, text)
	b.nudge()
}

// push queues everything else.
func (b *bot) push(text string) {
	if !b.memory.Queue.push(text) {
		b.log.Warn("too much to say", "dropped", text)
	}
	b.nudge()
}
