package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheBotJoinsWhenTheServerHasWelcomedIt(t *testing.T) {
	t.Parallel()
	s := newStage(t, "-penalty", "0")
	assert.Equal(t, []string{"CAP LS 302", "NICK robot", "USER mitosis 0 * :" + version}, s.said())
	s.hear(":irc.test NOTICE * :*** Looking up your hostname", "PING :a b")
	assert.Equal(t, []string{"PONG :a b"}, s.said())
	s.hear(":irc.test 001 robot :Welcome")
	assert.Equal(t, []string{"JOIN #one", "JOIN #two key"}, s.said())
	s.hear(":robot!r@h JOIN #one", ":robot!r@h JOIN #two")
	s.pass(2 * joinTimeout)
	assert.NotContains(t, strings.Join(s.said(), "\n"), "JOIN", "it is in both already")
}

func TestAJoinWithoutAnAnswerIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t, "-penalty", "0")
	s.hear(":irc.test 001 robot :Welcome", ":robot!r@h JOIN #two")
	s.said()
	s.pass(joinTimeout)
	assert.Equal(t, []string{"JOIN #one"}, s.said())
}

func TestCapabilitiesAreNegotiated(t *testing.T) {
	t.Parallel()
	t.Run("over several lines", func(t *testing.T) {
		s := newStage(t)
		s.said()
		s.hear(":s CAP * LS * :multi-prefix sasl=PLAIN account-tag")
		assert.Empty(t, s.said())
		s.hear(":s CAP * LS :chghost=x away-notify")
		assert.Equal(t, []string{"CAP REQ :account-tag chghost"}, s.said())
		s.hear(":s CAP * ACK :account-tag chghost")
		assert.Equal(t, []string{"CAP END"}, s.said())
		assert.True(t, s.bot.memory.Session.Enabled["account-tag"])
	})
	t.Run("with nothing of use", func(t *testing.T) {
		s := newStage(t)
		s.said()
		s.hear(":s CAP * LS :multi-prefix")
		assert.Equal(t, []string{"CAP END"}, s.said())
	})
	t.Run("and refused", func(t *testing.T) {
		s := newStage(t)
		s.said()
		s.hear(":s CAP * LS :account-tag", ":s CAP robot NAK :account-tag")
		assert.Equal(t, []string{"CAP REQ account-tag", "CAP END"}, s.said())
		assert.False(t, s.bot.memory.Session.Enabled["account-tag"])
	})
	t.Run("and change later", func(t *testing.T) {
		s := newJoinedStage(t)
		s.hear(":s CAP robot NEW :account-tag", ":s CAP robot ACK :account-tag")
		assert.Equal(t, []string{"CAP REQ account-tag"}, s.said())
		assert.True(t, s.bot.memory.Session.Enabled["account-tag"])
		s.hear(":s CAP robot DEL :account-tag")
		assert.False(t, s.bot.memory.Session.Enabled["account-tag"])
	})
}

func TestATakenNickIsWorkedAround(t *testing.T) {
	t.Parallel()
	s := newStage(t, "-penalty", "0", "-channels", "#one")
	s.said()
	s.hear(":s 433 * robot :Nickname is already in use")
	assert.Equal(t, []string{"NICK robot_"}, s.said())
	s.hear(":s 433 * robot_ :Nickname is already in use")
	assert.Equal(t, []string{"NICK robot__"}, s.said())
	s.hear(":s 001 robot__ :Welcome", ":robot__!r@h JOIN #one")
	s.said()

	t.Log("and regained later")
	s.pass(time.Minute)
	assert.Equal(t, []string{"NICK robot"}, s.said())
	s.hear(":s 433 robot__ robot :Nickname is already in use")
	assert.Empty(t, s.said(), "it has a nick: no hurry")
	s.pass(30 * time.Second)
	s.hear(":robot!other@h QUIT :bye")
	assert.Equal(t, []string{"NICK robot"}, s.said(), "the other one has gone: now")
	s.hear(":robot__!r@h NICK :robot")
	s.pass(time.Hour)
	s.hear(":s PONG s :x")
	assert.Empty(t, s.said())
}

func TestANickThatIsTooLongIsShortened(t *testing.T) {
	t.Parallel()
	s := newStage(t, "-nick", "averylongrobot")
	s.said()
	s.hear(":s 432 * averylongrobot :Nickname too long")
	assert.Equal(t, []string{"NICK averylon_"}, s.said())
	s.hear(":s 433 * averylon_ :Nickname is already in use")
	assert.Equal(t, []string{"NICK averylo__"}, s.said())
}

func TestAServerThatRefusesEveryNickIsLeft(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for range maxNickAttempts {
		s.hear(":s 433 * x :Nickname is already in use")
		s.said()
	}
	s.hear(":s 433 * x :Nickname is already in use")
	_, _, err := s.work()
	assert.ErrorIs(t, err, errNoNick)
}

func TestTheBotComesBackAfterAKick(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	s.hear(":op!o@h KICK #ONE robot :out")
	lines, wait, err := s.work()
	require.NoError(t, err)
	assert.Empty(t, lines)
	assert.Equal(t, 10*time.Second, wait)
	s.pass(10 * time.Second)
	assert.Equal(t, []string{"JOIN #one"}, s.said())

	t.Log("and is more patient each time that it is refused")
	var waits []time.Duration
	for range 4 {
		s.hear(":s 474 robot #one :Cannot join channel (+b)")
		lines, wait, err := s.work()
		require.NoError(t, err)
		require.Empty(t, lines)
		waits = append(waits, wait)
		s.pass(wait)
		s.hear("PING x")
		require.Equal(t, []string{"PONG x", "JOIN #one"}, s.said())
	}
	assert.InDelta(t, 10*time.Second, waits[0], float64(3*time.Second))
	assert.Greater(t, waits[2], waits[0])
	assert.Greater(t, waits[3], 2*waits[0])
}

func TestTheBotKeepsToThePaceOfTheServer(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	for i := range 10 {
		s.hear(fmt.Sprintf(":al!a@h PRIVMSG #one :!ping %d", i))
	}
	assert.Len(t, s.said(), 5, "a burst")
	assert.Empty(t, s.said())
	s.pass(2*time.Second - 1)
	assert.Empty(t, s.said())
	s.pass(1)
	assert.Equal(t, []string{"PRIVMSG #one :pong 5"}, s.said())
	s.hear("PING x")
	assert.Equal(t, []string{"PONG x"}, s.said(), "the server does not wait")

	t.Log("the next generation keeps to it too")
	s = s.restart()
	_, wait, err := s.work()
	require.NoError(t, err)
	assert.Equal(t, 4*time.Second, wait)
	s.pass(wait)
	assert.Equal(t, []string{"PRIVMSG #one :pong 6"}, s.said())
	s.pass(time.Minute)
	assert.Len(t, s.said(), 3)
}

func TestNobodyCanMakeTheBotTalkForEver(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	for range 2 * maxQueue {
		s.hear(":al!a@h PRIVMSG #one :!ping")
	}
	assert.Len(t, s.bot.memory.Queue.Lines, maxQueue)
}

func TestASilentServerIsAskedAndThenLeft(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	s.pass(idleTimeout)
	assert.Equal(t, []string{"PING robot"}, s.said())
	s.hear(":irc.test PONG irc.test :robot")
	s.pass(idleTimeout)
	assert.Equal(t, []string{"PING robot"}, s.said())
	s.pass(pingTimeout - 1)
	assert.Empty(t, s.said())
	s.pass(1)
	_, _, err := s.work()
	assert.ErrorIs(t, err, errSilent)

	s = newStage(t)
	s.pass(registerTimeout)
	_, _, err = s.work()
	assert.ErrorIs(t, err, errNoWelcome)
}

func TestTheMemorySurvivesARestart(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t)
	s.hear(":s CAP robot ACK :account-tag", ":al!a@h PRIVMSG #one :!ping \xff\xfe")
	before := s.bot.memory.Session
	next := s.restart()
	assert.Equal(t, []string{"PRIVMSG #one :pong \xff\xfe"}, next.said(), "byte for byte, and without a JOIN")
	after := next.bot.memory.Session
	assert.True(t, before.Since.Equal(after.Since))
	assert.Equal(t, before.Support, after.Support)
	assert.Equal(t, before.Enabled, after.Enabled)
	assert.Equal(t, "~robot", after.User)

	t.Log("and takes new flags into account")
	next = next.restart("-channels", "#TWO,#three", "-nick", "robot2")
	assert.ElementsMatch(t, []string{"PART #one", "JOIN #three", "NICK robot2"}, next.said())
}

func TestDelaysGrowAndAreBounded(t *testing.T) {
	t.Parallel()
	for failures := range 100 {
		d := delay(time.Second, failures)
		assert.GreaterOrEqual(t, d, min(maxBackOff, time.Second<<min(failures, 16))*3/4)
		assert.LessOrEqual(t, d, min(maxBackOff, time.Second<<min(failures, 16))*5/4)
	}
	assert.GreaterOrEqual(t, delay(time.Hour, 3), 45*time.Minute)
}
