package main

import (
	"strconv"
	"strings"
)

// support is what the server has said about itself in RPL_ISUPPORT (005), as far as the bot has a use for it.
type support struct {
	CaseMapping      string
	ChannelTypes     string
	StatusPrefixes   string // in front of a channel: a message to those with that status
	NickLength       int
	UserLength       int
	HostLength       int
	ExtendedWhoReply bool // WHOX
}

// defaultSupport is what holds until the server says otherwise.
func defaultSupport() support {
	return support{CaseMapping: "rfc1459", ChannelTypes: "#&", UserLength: 10, HostLength: 63}
}

// learn takes in the tokens of one RPL_ISUPPORT.
func (s *support) learn(tokens []string) {
	for _, token := range tokens {
		key, value, _ := strings.Cut(token, "=")
		switch key {
		case "CASEMAPPING":
			s.CaseMapping = value
		case "CHANTYPES":
			s.ChannelTypes = value
		case "STATUSMSG":
			s.StatusPrefixes = value
		case "NICKLEN":
			s.NickLength, _ = strconv.Atoi(value)
		case "USERLEN":
			s.UserLength, _ = strconv.Atoi(value)
		case "HOSTLEN":
			s.HostLength, _ = strconv.Atoi(value)
		case "WHOX":
			s.ExtendedWhoReply = true
		case "-WHOX":
			s.ExtendedWhoReply = false
		}
	}
}

// fold maps all spellings of a nick or a channel to one. It works on bytes: names need not be UTF-8.
func (s *support) fold(name string) string {
	folded := []byte(name)
	for i, c := range folded {
		switch {
		case 'A' <= c && c <= 'Z':
			folded[i] = c + 'a' - 'A'
		case s.CaseMapping != "rfc1459" && s.CaseMapping != "strict-rfc1459":
		case '[' <= c && c <= ']':
			folded[i] = c + '{' - '['
		case c == '^' && s.CaseMapping == "rfc1459":
			folded[i] = '~'
		}
	}
	return string(folded)
}

func (s *support) equal(a, b string) bool { return s.fold(a) == s.fold(b) }

func (s *support) isChannel(target string) bool {
	return target != "" && strings.IndexByte(s.ChannelTypes, target[0]) >= 0
}

// channelOf returns the channel that a message to target is for, or "".
func (s *support) channelOf(target string) string {
	for !s.isChannel(target) {
		if target == "" || strings.IndexByte(s.StatusPrefixes, target[0]) < 0 {
			return ""
		}
		target = target[1:]
	}
	return target
}
