package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAMessageIsReadAsTheStandardsSay(t *testing.T) {
	t.Parallel()
	numbered := func(n int) (params []string) {
		for i := range n {
			params = append(params, string(rune('a'+i)))
		}
		return params
	}
	for _, test := range []struct {
		name, line string
		want       message
	}{
		{"no parameters", "PING", message{Command: "PING"}},
		{"a line ending", "PING x\r\n", message{Command: "PING", Params: []string{"x"}}},
		{"a bare newline", "PING x\n", message{Command: "PING", Params: []string{"x"}}},
		{"lower case", "ping x", message{Command: "PING", Params: []string{"x"}}},
		{"an empty trailing parameter", "TOPIC #c :", message{Command: "TOPIC", Params: []string{"#c", ""}}},
		{"spaces at the end", "QUIT   ", message{Command: "QUIT"}},
		{"many spaces", ":a   PRIVMSG   b    :c   d ", message{
			Prefix: prefix{Name: "a"}, Command: "PRIVMSG", Params: []string{"b", "c   d "}}},
		{"spaces in front", "  PING x", message{Command: "PING", Params: []string{"x"}}},
		{"a colon inside a parameter", "MODE a:b :c:d", message{Command: "MODE", Params: []string{"a:b", "c:d"}}},
		{"a trailing parameter that begins with a colon", "PRIVMSG a ::)", message{
			Command: "PRIVMSG", Params: []string{"a", ":)"}}},
		{"a whole prefix", ":n!u@h JOIN #c", message{
			Prefix: prefix{"n", "u", "h"}, Command: "JOIN", Params: []string{"#c"}}},
		{"a prefix without user", ":n@h JOIN #c", message{
			Prefix: prefix{Name: "n", Host: "h"}, Command: "JOIN", Params: []string{"#c"}}},
		{"a prefix without host", ":n!u JOIN #c", message{
			Prefix: prefix{Name: "n", User: "u"}, Command: "JOIN", Params: []string{"#c"}}},
		{"a prefix without name", ":!u@h JOIN #c", message{
			Prefix: prefix{User: "u", Host: "h"}, Command: "JOIN", Params: []string{"#c"}}},
		{"a server", ":irc.example.net 001 me :Welcome home", message{
			Prefix: prefix{Name: "irc.example.net"}, Command: "001", Params: []string{"me", "Welcome home"}}},
		{"a prefix with nothing in it", ":!@ JOIN #c", message{Command: "JOIN", Params: []string{"#c"}}},
		{"a second at-sign in the host", ":n!u@h@i JOIN #c", message{
			Prefix: prefix{"n", "u", "h@i"}, Command: "JOIN", Params: []string{"#c"}}},
		{"a numeric with fifteen parameters", ":s 005 " + strings.Join(numbered(15), " "), message{
			Prefix: prefix{Name: "s"}, Command: "005", Params: numbered(15)}},
		{"a fifteenth parameter takes the rest", "005 " + strings.Join(numbered(14), " ") + "  x y :z", message{
			Command: "005", Params: append(numbered(14), "x y :z")}},
		{"a fifteenth parameter with its colon", "005 " + strings.Join(numbered(14), " ") + " :x y", message{
			Command: "005", Params: append(numbered(14), "x y")}},
		{"no fifteenth parameter after all", "005 " + strings.Join(numbered(14), " ") + "  ", message{
			Command: "005", Params: numbered(14)}},
		{"tags", "@a=b;c;d= :n PING", message{
			Tags: map[string]string{"a": "b", "c": "", "d": ""}, Prefix: prefix{Name: "n"}, Command: "PING"}},
		{"escapes in tags", `@a=\:\s\\\r\n\q\ PING`, message{
			Tags: map[string]string{"a": "; \\\r\nq"}, Command: "PING"}},
		{"a tag with a vendor and one of a client", "@example.org/k=1=2;+x=y PING", message{
			Tags: map[string]string{"example.org/k": "1=2", "+x": "y"}, Command: "PING"}},
		{"the last of two equal tags", "@a=1;a=2 PING", message{Tags: map[string]string{"a": "2"}, Command: "PING"}},
		{"tags with nothing in them", "@;=x; PING", message{Command: "PING"}},
		{"bytes that are not UTF-8", "PRIVMSG a :\xff\xfe", message{
			Command: "PRIVMSG", Params: []string{"a", "\xff\xfe"}}},
		{"control characters", "PRIVMSG a :\x01ACTION waves\x01", message{
			Command: "PRIVMSG", Params: []string{"a", "\x01ACTION waves\x01"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseMessage(test.line)
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
			again, err := parseMessage(got.String())
			require.NoError(t, err)
			assert.Equal(t, got, again, "the message written and read again is another one: %q", got.String())
		})
	}
}

func TestALineThatIsNoMessageIsRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", "\r\n", "   ", ":", ":n", ":n ", "@a=b", "@a=b ", "@a=b :n", "12", "1234", "00x", "P1NG", "PING\x00x",
		"PING a\rb", "PING a\nQUIT", "é", ": :x", "PRIV-MSG a",
	} {
		_, err := parseMessage(line)
		assert.Error(t, err, "%q", line)
	}
}

func TestAMessageIsAlwaysOneLine(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "PRIVMSG #c :one  QUIT :two", line("PRIVMSG", "#c", "one\r\nQUIT :two"))
	assert.Equal(t, "PRIVMSG #c :", line("PRIVMSG", "#c", ""))
	assert.Equal(t, "JOIN #c", line("JOIN", "#c"))
	tagged := message{Tags: map[string]string{"b": "x; y\n", "a": ""}, Prefix: prefix{"n", "u", "h"}, Command: "PING"}
	assert.Equal(t, `@a;b=x\:\sy\n :n!u@h PING`, tagged.String())
}

func FuzzAMessageSurvivesWritingAndReading(f *testing.F) {
	for _, seed := range []string{
		"PING", "PING :", ":n!u@h PRIVMSG #c :hello  there", "@a=b;c;+d/e=\\:\\s\\\\ :s 005 a b c d e f g h i j k l m n o p q",
		":@!a@b! x : :", "@;;=; 001", ":!@ a ::", "\x00", "@a=\\", "  join  #c  ", "PRIVMSG \xff :\x01\xfe",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		first, err := parseMessage(line)
		if err != nil {
			return
		}
		assert.LessOrEqual(t, len(first.Params), maxParams)
		written := first.String()
		assert.False(t, strings.ContainsAny(written, "\r\n\x00"), "%q is not one line", written)
		second, err := parseMessage(written)
		require.NoError(t, err, "%q came from %q", written, line)
		assert.Equal(t, first, second)
		assert.Equal(t, written, second.String())
	})
}
