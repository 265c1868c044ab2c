package main

import (
	"fmt"
	"sort"
	"strings"
	"unicode"
)

const (
	usage      = "commands: /nick NAME, /join ROOM, /who, /history, /generation, /quit"
	longestTag = 24 // of nicks and rooms, in bytes
)

// obey does what a line says, with mu held.
func (s *server) obey(c *client, line string) {
	line = strings.TrimSpace(printable(line))
	if line == "" {
		return
	}
	if !strings.HasPrefix(line, "/") {
		s.say(c, line)
		return
	}
	command, argument, _ := strings.Cut(line, " ")
	argument = strings.TrimSpace(argument)
	switch command {
	case "/nick":
		s.rename(c, argument)
	case "/join":
		s.join(c, argument)
	case "/who":
		s.send(c, fmt.Sprintf("* in %s: %s", c.Room, strings.Join(s.present(c.Room), ", ")))
	case "/history":
		s.recall(c)
	case "/generation":
		s.send(c, fmt.Sprintf("* generation %d", s.registry.Generation()))
	case "/quit":
		s.leave(c, "")
	default:
		s.send(c, fmt.Sprintf("* %s is not known; %s", command, usage))
	}
}

// printable leaves out what could play tricks on a terminal.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, ""))
}

// isTag says whether a name may be a nick or a room.
func isTag(name string) bool {
	return name != "" && len(name) <= longestTag && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
	})
}

const tagRule = "a name is 1 to 24 bytes of letters, digits, - and _"

func (s *server) rename(c *client, nick string) {
	key := strings.ToLower(nick)
	switch other := s.nicks[key]; {
	case !isTag(nick):
		s.send(c, "* "+tagRule)
	case other != nil && other != c:
		s.send(c, fmt.Sprintf("* %s is taken", nick))
	case nick == c.Nick:
		s.send(c, fmt.Sprintf("* you are %s", nick))
	default:
		old := c.Nick
		delete(s.nicks, strings.ToLower(old))
		s.nicks[key] = c
		c.Nick = nick
		s.announce(s.room(c.Room), fmt.Sprintf("* %s is now %s", old, nick))
	}
}

func (s *server) join(c *client, name string) {
	switch {
	case !isTag(name):
		s.send(c, "* "+tagRule)
	case name == c.Room:
		s.send(c, fmt.Sprintf("* you are in %s", name))
	default:
		s.exit(c, "")
		s.enter(c, name)
	}
}

// present returns the nicks in a room, sorted.
func (s *server) present(name string) []string {
	var nicks []string
	for c := range s.room(name).members {
		nicks = append(nicks, c.Nick)
	}
	sort.Strings(nicks)
	return nicks
}

func (s *server) recall(c *client) {
	history := s.room(c.Room).History
	s.send(c, fmt.Sprintf("* the last %d lines of %s", len(history), c.Room))
	for _, line := range history {
		s.send(c, line)
	}
}
