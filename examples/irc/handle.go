package main

import "time"

// handle takes in one message. The caller holds mu.
func (b *bot) handle(now time.Time, m message) {
	s := &b.memory.Session
	switch m.Command {
	case "PING":
		b.urgent(line("PONG", m.Params...))
	case "CAP":
		b.capability(m)
	case "001":
		b.welcome(now, m)
	case "005":
		before := s.Support.CaseMapping
		if len(m.Params) > 2 {
			s.Support.learn(m.Params[1 : len(m.Params)-1])
		}
		if s.Support.CaseMapping != before {
			b.memory.refold()
		}
	case "432", "433", "436":
		b.nickRefused(m)
	case "437":
		if s.Support.isChannel(m.param(1)) {
			b.joinRefused(now, m)
		} else {
			b.nickRefused(m)
		}
	case "403", "405", "471", "473", "474", "475", "476", "477", "489", "520":
		b.joinRefused(now, m)
	case "354":
		b.whoReply(now, m)
	case "315":
		b.whoEnd(m)
	case "JOIN":
		b.joined(now, m)
	case "PART":
		b.left(now, m, m.Prefix, "leaving")
	case "KICK":
		b.left(now, m, prefix{Name: m.param(1)}, "being kicked")
	case "QUIT":
		b.quit(now, m)
	case "NICK":
		b.renamed(now, m)
	case "CHGHOST":
		b.forget(m.Prefix)
		if s.Support.equal(m.Prefix.Name, s.Nick) {
			s.User, s.Host = m.param(0), m.param(1)
		}
	case "PRIVMSG":
		b.heard(now, m)
	case "ERROR":
		b.log.Warn("the server says goodbye", "reason", m.last())
	}
}

func (b *bot) isMe(nick string) bool {
	return b.memory.Session.Support.equal(nick, b.memory.Session.Nick)
}

func (b *bot) joined(now time.Time, m message) {
	c := b.memory.channel(m.param(0))
	switch {
	case !b.isMe(m.Prefix.Name):
		if c != nil {
			b.saw(now, c, m.Prefix.Name, "joining")
		}
	case c == nil:
		b.push(line("PART", m.param(0))) // somebody has forced us in
	default:
		b.memory.Session.User, b.memory.Session.Host = m.Prefix.User, m.Prefix.Host
		c.Joined, c.Since, c.Messages, c.Failures = true, now, 0, 0
		b.log.Info("joined", "channel", c.Name)
	}
}

// left handles the end of a membership, by PART or KICK.
func (b *bot) left(now time.Time, m message, who prefix, what string) {
	c := b.memory.channel(m.param(0))
	if c == nil {
		return
	}
	if b.isMe(who.Name) {
		c.Joined = false
		c.Rejoin = now.Add(b.config.Rejoin)
		b.memory.Grants = nil // we may not see any more what those people do
		b.log.Warn("out of the channel", "channel", c.Name, "by", m.Prefix.String(), "reason", m.last())
		return
	}
	b.saw(now, c, who.Name, what)
	b.forget(m.Prefix)
}

func (b *bot) joinRefused(now time.Time, m message) {
	if c := b.memory.channel(m.param(1)); c != nil && !c.Joined {
		c.Rejoin = now.Add(delay(b.config.Rejoin, c.Failures))
		c.Failures++
		b.log.Warn("cannot join", "channel", c.Name, "numeric", m.Command, "reason", m.last())
	}
}

func (b *bot) quit(now time.Time, m message) {
	b.forget(m.Prefix)
	b.vacated(now, m.Prefix.Name)
	b.everywhere(now, m.Prefix.Name, "quitting")
}

func (b *bot) renamed(now time.Time, m message) {
	s := &b.memory.Session
	if b.isMe(m.Prefix.Name) {
		s.Nick = m.param(0)
		b.log.Info("renamed", "nick", s.Nick)
		return
	}
	b.forget(m.Prefix)
	b.vacated(now, m.Prefix.Name)
	b.everywhere(now, m.Prefix.Name, "changing nick to "+m.param(0))
	for _, c := range b.memory.Channels {
		if _, ok := c.Seen[s.Support.fold(m.Prefix.Name)]; ok {
			b.saw(now, c, m.param(0), "changing nick from "+m.Prefix.Name)
		}
	}
}

// vacated tries for our nick at once when the one who had it has let it go.
func (b *bot) vacated(now time.Time, nick string) {
	if b.memory.Session.Support.equal(nick, b.wantedNick()) {
		b.memory.Session.Regain = now
	}
}

func (b *bot) saw(now time.Time, c *channel, nick, what string) {
	c.saw(now, b.memory.Session.Support.fold(nick), nick, what)
}

// everywhere notes a sighting in those channels that know the nick: the server does not say which ones it was in.
func (b *bot) everywhere(now time.Time, nick, what string) {
	for _, c := range b.memory.Channels {
		if s, ok := c.Seen[b.memory.Session.Support.fold(nick)]; ok && s.What != "leaving" && s.What != "being kicked" {
			b.saw(now, c, nick, what)
		}
	}
}
