package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAReplyFitsIntoALine(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"x", "é", "€", "😀", "\xff"} {
		for shift := range 4 {
			s := newJoinedStage(t)
			s.hear(":al!a@h PRIVMSG #one :!ping " + strings.Repeat("-", shift) + strings.Repeat(unit, 500))
			said := s.said()
			require.Len(t, said, 1)
			asOthersSeeIt := ":robot!~robot@host.test " + said[0] + "\r\n"
			assert.LessOrEqual(t, len(asOthersSeeIt), maxLine)
			assert.Greater(t, len(asOthersSeeIt), maxLine-utf8.UTFMax)
			if unit != "\xff" {
				assert.True(t, utf8.ValidString(said[0]), "%q", said[0])
			}
		}
	}
}

func TestTheBotRemembersWhoItHasSeen(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	ask := func(channel, nick string) string {
		s.t.Helper()
		s.pass(time.Minute)
		s.hear(":al!a@h PRIVMSG " + channel + " :!seen " + nick)
		said := s.said()
		require.Len(t, said, 1)
		return said[0]
	}
	assert.Equal(t, "PRIVMSG #one :I have not seen bob here", ask("#one", "bob"))
	s.hear(":Bob[]!b@h JOIN #one")
	assert.Equal(t, "PRIVMSG #one :I saw Bob[] joining 1m0s ago", ask("#one", "bOB{}"))
	s.hear(":Bob[]!b@h PRIVMSG #one :hello")
	assert.Equal(t, "PRIVMSG #one :I saw Bob[] talking 1m0s ago", ask("#one", "Bob[]"))
	assert.Equal(t, "PRIVMSG #two :I have not seen Bob[] here", ask("#two", "Bob[]"), "another channel")
	s = s.restart()
	s.hear(":Bob[]!b@h NICK :rob")
	assert.Equal(t, "PRIVMSG #one :I saw Bob[] changing nick to rob 1m0s ago", ask("#one", "Bob[]"))
	assert.Equal(t, "PRIVMSG #one :I saw rob changing nick from Bob[] 2m0s ago", ask("#one", "rob"))
	s.hear(":rob!b@h PART #one :bye", ":rob!b@h QUIT :bye")
	assert.Equal(t, "PRIVMSG #one :I saw rob leaving 1m0s ago", ask("#one", "rob"))
	s.hear(":al!a@h QUIT :bye")
	assert.Equal(t, "PRIVMSG #one :here I am", ask("#one", "ROBOT"))
	s.hear(":carl!c@h PRIVMSG robot :!seen rob")
	assert.Equal(t, []string{"NOTICE carl :in a channel: !seen NICK"}, s.said())
}

func TestTheMemoryOfAChannelIsBounded(t *testing.T) {
	t.Parallel()
	c := &channel{}
	now := time.Now()
	for i := range maxSightings + 10 {
		nick := fmt.Sprint("n", i)
		c.saw(now.Add(time.Duration(i)*time.Second), nick, nick, "talking")
	}
	assert.Len(t, c.Seen, maxSightings)
	assert.NotContains(t, c.Seen, "n9")
	assert.Contains(t, c.Seen, "n10")
}

func TestTheBotAnswersQuestions(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	s.bot.started = s.now.Add(-5 * time.Second)
	for _, test := range []struct{ question, answer string }{
		{"PRIVMSG #one :!ping tok en", "PRIVMSG #one :pong tok en"},
		{"PRIVMSG #one :!PING", "PRIVMSG #one pong"},
		{"PRIVMSG @#one :!ping x", "PRIVMSG @#one :pong x"},
		{"PRIVMSG robot :!ping x", "NOTICE al :pong x"},
		{"PRIVMSG #one :!uptime", "PRIVMSG #one :up 1h0m, on this connection 1h0m, in this process 5s"},
		{"PRIVMSG #one :!count", "PRIVMSG #one :5 messages in #one since I joined, 1h0m ago"},
		{"PRIVMSG #one :!help", "PRIVMSG #one :" + help},
		{"PRIVMSG #one :\x01PING 123\x01", "NOTICE al :\x01PING 123\x01"},
		{"PRIVMSG robot :\x01VERSION\x01", "NOTICE al :\x01VERSION " + version + "\x01"},
		{"PRIVMSG #one :\x01ACTION says !ping\x01", ""},
		{"PRIVMSG #one :hello", ""},
		{"PRIVMSG #one :!unknown", ""},
		{"PRIVMSG #elsewhere :!ping", ""},
		{"PRIVMSG $* :!ping", ""},
		{"NOTICE #one :!ping", ""},
		{"NOTICE robot :\x01VERSION\x01", ""},
		{"PRIVMSG #one", ""},
	} {
		s.hear(":al!a@h " + test.question)
		assert.Equal(t, test.answer, strings.Join(s.said(), "\n"), "%q", test.question)
		s.bot.memory.Queue.Clock = time.Time{}
	}
	s.hear(":irc.test PRIVMSG #one :!ping", ":robot!r@h PRIVMSG #one :!ping")
	assert.Empty(t, s.said(), "servers and the bot itself ask nothing")
}
