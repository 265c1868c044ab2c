package main

import (
	"bytes"
	"encoding/gob"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A stage drives a bot by hand: lines in, lines out, and a clock that moves when it is told to.
type stage struct {
	t   *testing.T
	bot *bot
	now time.Time
}

// newStage returns a bot that has just introduced itself to a server.
func newStage(t *testing.T, arguments ...string) *stage {
	t.Helper()
	c, err := parseFlags("irc", append([]string{"-nick", "robot", "-channels", "#one,#two key"}, arguments...))
	require.NoError(t, err)
	b := newBot(c, slog.New(slog.NewTextHandler(io.Discard, nil)))
	b.generation = 1
	s := &stage{t: t, bot: b, now: time.Now()}
	b.resume(s.now)
	b.begin(s.now)
	return s
}

// newJoinedStage returns a bot that is in its channels.
func newJoinedStage(t *testing.T, arguments ...string) *stage {
	t.Helper()
	s := newStage(t, arguments...)
	s.hear(
		":irc.test 001 robot :Welcome",
		":irc.test 005 robot CASEMAPPING=rfc1459 CHANTYPES=# NICKLEN=20 STATUSMSG=@+ WHOX :are supported",
		":robot!~robot@host.test JOIN #one",
		":robot!~robot@host.test JOIN :#two",
	)
	s.said()
	s.pass(time.Hour)
	s.hear(":irc.test PONG irc.test :x")
	return s
}

func (s *stage) hear(lines ...string) {
	s.bot.mu.Lock()
	defer s.bot.mu.Unlock()
	for _, line := range lines {
		s.bot.memory.Session.Heard, s.bot.memory.Session.Pinged = s.now, time.Time{}
		s.bot.receive(s.now, line+"\r\n")
	}
}

// said returns what the bot sends at this time.
func (s *stage) said() []string {
	s.t.Helper()
	lines, _, err := s.work()
	require.NoError(s.t, err)
	return lines
}

func (s *stage) work() (lines []string, wait time.Duration, err error) {
	s.bot.mu.Lock()
	defer s.bot.mu.Unlock()
	var out strings.Builder
	wait, err = s.bot.work(s.now, &out)
	for line := range strings.Lines(out.String()) {
		require.True(s.t, strings.HasSuffix(line, "\r\n"))
		lines = append(lines, strings.TrimSuffix(line, "\r\n"))
	}
	return lines, wait, err
}

func (s *stage) pass(d time.Duration) { s.now = s.now.Add(d) }

// restart moves the memory into a new bot, the way a split does.
func (s *stage) restart(arguments ...string) *stage {
	s.t.Helper()
	var state bytes.Buffer
	require.NoError(s.t, gob.NewEncoder(&state).Encode(&s.bot.memory))
	next := newStage(s.t, arguments...)
	next.bot.memory = memory{}
	require.NoError(s.t, gob.NewDecoder(&state).Decode(&next.bot.memory))
	next.bot.generation = s.bot.generation + 1
	next.now = s.now
	next.bot.resume(next.now)
	return next
}
