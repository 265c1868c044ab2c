package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	grantLifetime   = 10 * time.Minute // how long an !auth holds
	authPause       = 10 * time.Second // after a wrong secret nobody may try another one
	minSecretLength = 12
	inquiryLifetime = 15 * time.Second // how long the bot waits for the server's WHO reply
	whoToken        = "152"            // marks our own WHO among the replies; WHOX allows three digits
)

// owners is who may command the bot.
type owners struct {
	Accounts []string // services accounts
	Masks    []string // nick!user@host with * and ?
	digest   [sha256.Size]byte
	secret   bool
}

// String and Set make owners a flag that can be given several times.
func (o *owners) String() string { return "" }

// Set adds "account:NAME" or a mask.
func (o *owners) Set(value string) error {
	if account, ok := strings.CutPrefix(value, "account:"); ok {
		if account == "" || strings.ContainsAny(account, " *?,") {
			return fmt.Errorf("%q is not the name of an account", account)
		}
		o.Accounts = append(o.Accounts, account)
		return nil
	}
	nick, rest, ok := strings.Cut(value, "!")
	user, host, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 || nick == "" || user == "" {
		return errors.New("want account:NAME or nick!user@host: a nick alone is anybody's")
	}
	if strings.Trim(host, "*?.:") == "" {
		return errors.New("the host in the mask is open to everybody")
	}
	o.Masks = append(o.Masks, value)
	return nil
}

// setSecret sets what !auth asks for.
func (o *owners) setSecret(secret string) error {
	if len(secret) < minSecretLength {
		return fmt.Errorf("the secret is shorter than %d bytes", minSecretLength)
	}
	o.digest, o.secret = sha256.Sum256([]byte(secret)), true
	return nil
}

// knows compares in constant time; the digests have one length, so that the length of the secret does not show.
func (o *owners) knows(secret string) bool {
	digest := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(digest[:], o.digest[:]) == 1 && o.secret
}

// matches reports whether the glob pattern covers all of s.
func matches(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// A grant is what a right !auth gives to one nick!user@host.
type grant struct {
	Who   string // folded
	Until time.Time
}

// An inquiry is a command that waits for the server to say which account its sender is logged in to.
type inquiry struct {
	Origin origin
	Asked  time.Time
}

// A verdict is the answer to: is that our owner?
type verdict int

const (
	stranger verdict = iota
	owner
	unclear // the server is being asked; see inquiry
)

// identify says whether the sender of a message is the owner.
func (b *bot) identify(now time.Time, from origin) verdict {
	s := &b.memory.Session
	if s.Enabled["account-tag"] {
		for _, account := range b.config.Owners.Accounts {
			if from.Account != "" && s.Support.equal(account, from.Account) {
				return owner
			}
		}
	}
	who := s.Support.fold(from.Prefix.String())
	for _, mask := range b.config.Owners.Masks {
		if matches(s.Support.fold(mask), who) {
			return owner
		}
	}
	for _, g := range b.memory.Grants {
		if g.Who == who && now.Before(g.Until) {
			return owner
		}
	}
	if len(b.config.Owners.Accounts) > 0 && !s.Enabled["account-tag"] && s.Support.ExtendedWhoReply {
		return unclear
	}
	return stranger
}

// inquire asks the server for the account of the sender. One inquiry at a time: the owner asks rarely, and
// strangers must not be able to make the bot send WHO after WHO.
func (b *bot) inquire(now time.Time, from origin) {
	if p := b.memory.Inquiry; p != nil && now.Sub(p.Asked) < inquiryLifetime {
		return
	}
	b.memory.Inquiry = &inquiry{Origin: from, Asked: now}
	b.push(line("WHO", from.Prefix.Name, "%tuhna,"+whoToken))
}

// whoReply handles RPL_WHOSPCRPL (354): our nick, the token, user, host, nick, account. Between the command and this
// reply the nick may have changed hands, so user and host must still be the same.
func (b *bot) whoReply(now time.Time, m message) {
	p := b.memory.Inquiry
	if p == nil || len(m.Params) != 6 || m.Params[1] != whoToken {
		return
	}
	s := &b.memory.Session
	found := prefix{Name: m.Params[4], User: m.Params[2], Host: m.Params[3]}
	if !s.Support.equal(found.String(), p.Origin.Prefix.String()) {
		return
	}
	b.memory.Inquiry = nil
	account := m.Params[5]
	for _, name := range b.config.Owners.Accounts {
		if account != "0" && s.Support.equal(name, account) && now.Sub(p.Asked) < inquiryLifetime {
			b.beginRestart(now, p.Origin)
			return
		}
	}
	b.refuse(p.Origin)
}

// whoEnd handles RPL_ENDOFWHO (315): whoever asked has gone.
func (b *bot) whoEnd(m message) {
	if p := b.memory.Inquiry; p != nil && b.memory.Session.Support.equal(m.param(1), p.Origin.Prefix.Name) {
		b.memory.Inquiry = nil
		b.refuse(p.Origin)
	}
}

// authenticate handles !auth.
func (b *bot) authenticate(now time.Time, from origin, secret string) {
	switch {
	case from.Channel != "":
		b.reply(from, "not here: change that secret, everybody has seen it")
	case !b.config.Owners.secret:
		b.reply(from, "I have no secret")
	case now.Before(b.memory.AuthPause):
		b.reply(from, "too soon")
	case !b.config.Owners.knows(secret):
		b.memory.AuthPause = now.Add(authPause)
		b.log.Warn("wrong secret", "from", from.Prefix.String())
		b.reply(from, "no")
	default:
		b.forget(from.Prefix)
		who := b.memory.Session.Support.fold(from.Prefix.String())
		b.memory.Grants = append(b.memory.Grants, grant{Who: who, Until: now.Add(grantLifetime)})
		b.log.Info("owner by secret", "who", from.Prefix.String())
		b.reply(from, "yes, for "+span(grantLifetime))
	}
}

// forget takes back what is bound to a nick!user@host, which may be another person's next time it is seen.
func (b *bot) forget(p prefix) {
	who := b.memory.Session.Support.fold(p.String())
	kept := b.memory.Grants[:0]
	for _, g := range b.memory.Grants {
		if g.Who != who {
			kept = append(kept, g)
		}
	}
	b.memory.Grants = kept
	if i := b.memory.Inquiry; i != nil && b.memory.Session.Support.equal(i.Origin.Prefix.String(), p.String()) {
		b.memory.Inquiry = nil
	}
}
