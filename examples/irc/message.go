package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxParams is how many parameters a message has at most (RFC 1459, section 2.3); the last one takes the rest.
const maxParams = 15

// A message is one line of the IRC protocol: RFC 1459 and RFC 2812, with IRCv3 message tags.
type message struct {
	Tags    map[string]string // unescaped; nil when there are none
	Prefix  prefix            // who sent it; zero when the line does not say
	Command string            // upper case letters, or three digits
	Params  []string          // at most maxParams; only the last may be empty, hold spaces or begin with a colon
}

// A prefix is the origin of a message: a server, or a client as nick!user@host.
type prefix struct {
	Name, User, Host string
}

// parseMessage reads one line, with or without its line ending.
// It is lenient about spaces and about the bytes in parameters, and strict about the command.
func parseMessage(line string) (message, error) {
	var m message
	rest := strings.TrimRight(line, "\r\n")
	if i := strings.IndexAny(rest, "\r\n\x00"); i >= 0 {
		return m, fmt.Errorf("byte %#02x inside a message", rest[i])
	}
	rest = strings.TrimLeft(rest, " ")
	if after, ok := strings.CutPrefix(rest, "@"); ok {
		var tags string
		tags, rest = cutWord(after)
		m.Tags = parseTags(tags)
	}
	if after, ok := strings.CutPrefix(rest, ":"); ok {
		var origin string
		origin, rest = cutWord(after)
		m.Prefix = parsePrefix(origin)
	}
	m.Command, rest = cutWord(rest)
	if m.Command == "" {
		return message{}, errors.New("message without a command")
	}
	if !validCommand(m.Command) {
		return message{}, fmt.Errorf("command %q is neither a word nor a number", m.Command)
	}
	m.Command = strings.ToUpper(m.Command)
	for rest != "" {
		if trailing, ok := strings.CutPrefix(rest, ":"); ok {
			m.Params = append(m.Params, trailing)
			break
		}
		if len(m.Params) == maxParams-1 {
			m.Params = append(m.Params, rest)
			break
		}
		var param string
		param, rest = cutWord(rest)
		m.Params = append(m.Params, param)
	}
	return m, nil
}

// cutWord splits s at its first run of spaces.
func cutWord(s string) (word, rest string) {
	word, rest, _ = strings.Cut(s, " ")
	return word, strings.TrimLeft(rest, " ")
}

func validCommand(s string) bool {
	digits, letters := 0, 0
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			letters++
		default:
			return false
		}
	}
	return digits == 0 || digits == 3 && letters == 0
}

func parsePrefix(s string) prefix {
	var p prefix
	s, p.Host, _ = strings.Cut(s, "@")
	p.Name, p.User, _ = strings.Cut(s, "!")
	return p
}

// String returns the prefix without its colon.
func (p prefix) String() string {
	s := p.Name
	if p.User != "" {
		s += "!" + p.User
	}
	if p.Host != "" {
		s += "@" + p.Host
	}
	return s
}

func parseTags(s string) map[string]string {
	tags := make(map[string]string)
	for tag := range strings.SplitSeq(s, ";") {
		if key, value, _ := strings.Cut(tag, "="); key != "" {
			tags[key] = unescapeTag(value)
		}
	}
	if len(tags) == 0 {
		return nil
	}
	return tags
}

var tagEscaper = strings.NewReplacer(";", `\:`, " ", `\s`, `\`, `\\`, "\r", `\r`, "\n", `\n`)

func unescapeTag(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			break // a lone backslash at the end is dropped
		}
		switch s[i] {
		case ':':
			b.WriteByte(';')
		case 's':
			b.WriteByte(' ')
		case 'r':
			b.WriteByte('\r')
		case 'n':
			b.WriteByte('\n')
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// lineBreaks keeps a parameter from ending the line early and beginning one of its own.
var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")

// String returns the line without its ending, the tags sorted. Whatever the parameters hold, it is one line.
func (m message) String() string {
	var b strings.Builder
	separator := "@"
	for _, key := range slices.Sorted(maps.Keys(m.Tags)) {
		b.WriteString(separator + key)
		separator = ";"
		if value := m.Tags[key]; value != "" {
			b.WriteString("=" + tagEscaper.Replace(value))
		}
	}
	if len(m.Tags) > 0 {
		b.WriteByte(' ')
	}
	if origin := m.Prefix.String(); origin != "" {
		b.WriteString(":" + origin + " ")
	}
	b.WriteString(m.Command)
	for i, param := range m.Params {
		b.WriteByte(' ')
		param = lineBreaks.Replace(param)
		if i == len(m.Params)-1 && (param == "" || param[0] == ':' || strings.Contains(param, " ")) {
			b.WriteByte(':')
		}
		b.WriteString(param)
	}
	return b.String()
}

// param returns the parameter with the number i, counted from 0, or "".
func (m message) param(i int) string {
	if i >= len(m.Params) {
		return ""
	}
	return m.Params[i]
}

// last returns the last parameter, or "".
func (m message) last() string {
	return m.param(max(0, len(m.Params)-1))
}

// line formats a message of our own.
func line(command string, params ...string) string {
	return message{Command: command, Params: params}.String()
}
