//go:build unix

package main

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheBotStaysInItsChannelWhileItRestarts(t *testing.T) {
	t.Parallel()
	for _, server := range []ircd{ngircd, inspircd} {
		t.Run("on "+server.name, func(t *testing.T) {
			t.Parallel()
			stayWhileRestarting(t, server.start(t, ""))
		})
	}
}

const goodSplits = 25

// failures come after every fifth good split.
var failures = []string{exitsWithThree, exitsWithZero, panics, isKilled, hasBadFlags}

func stayWhileRestarting(t *testing.T, server string) {
	observer := newClient(t, server, "observer")
	owner := newClient(t, server, "owner")
	bot := startBot(t, server, "-owner", "owner!*owner@127.0.0.1")
	_, _ = observer.got.await(t, "the bot's JOIN", 0, func(m message) bool {
		return m.Command == "JOIN" && m.Prefix.Name == "robot"
	})
	signOn := observer.signOn()
	chatters := []*chatter{newChatter(t, server, "alice"), newChatter(t, server, "bob")}

	generation := 1
	description := func() string { return fmt.Sprintf("generation %d, process %d", generation, bot.pid()) }
	require.Equal(t, description(), owner.ask("!generation", "generation"))
	pids := map[int]bool{bot.pid(): true}
	for i := range goodSplits {
		bot.split()
		generation++
		require.Equal(t, description(), owner.ask("!generation", "generation"))
		require.NotContains(t, pids, bot.pid())
		pids[bot.pid()] = true
		if i%5 == 4 {
			before := description()
			bot.failSplit(failures[i/5])
			require.Equal(t, before, owner.ask("!generation", "generation"), "a failed split changed something")
		}
	}

	t.Log("the owner restarts it from the channel")
	generation++
	answer := owner.ask("!restart", "generation")
	assert.Regexp(t, fmt.Sprintf(`^generation %d, process \d+, [\d.]+m?s after you asked$`, generation), answer)
	bot.awaitLog("INFO ready ")
	bot.failNext(exitsWithThree)
	assert.Equal(t, fmt.Sprintf("restart failed, still generation %d: the new process exited", generation),
		owner.ask("!restart", "restart failed"))
	chatters[0].say("!restart")
	owner.await("PRIVMSG", "alice: only for my owner")
	require.Equal(t, description(), owner.ask("!generation", "generation"))

	for _, c := range chatters {
		c.finish()
		require.Greater(t, c.sent, goodSplits)
		var want []string
		for i := range c.sent {
			want = append(want, strconv.Itoa(i))
		}
		last := fmt.Sprintf("pong %s-%d", c.nick, c.sent-1)
		_, _ = observer.got.await(t, last, 0, func(m message) bool { return m.last() == last })
		t.Logf("%s asked %d times", c.nick, c.sent)
		require.Equal(t, want, observer.answersTo(c.nick), "not every question was answered once, in order")
	}
	assert.Equal(t, signOn, observer.signOn(), "the connection is another one")
	assert.Equal(t, []string{"JOIN"}, observer.moves(), "the channel has seen a restart")
	bot.stop()
	observer.await("QUIT", "")
	assert.Equal(t, []string{"JOIN", "QUIT"}, observer.moves())
}

func TestTheBotFindsItsWayBack(t *testing.T) {
	t.Parallel()
	for _, server := range []ircd{ngircd, inspircd} {
		t.Run("on "+server.name, func(t *testing.T) {
			t.Parallel()
			findTheWayBack(t, server.start(t, ""))
		})
	}
}

func findTheWayBack(t *testing.T, server string) {
	squatter := newClient(t, server, "robot")
	op := newClient(t, server, "robot_") // is the operator of #other, which it enters first
	op.send("JOIN #other")
	op.await("366", "")
	bot := startBot(t, server, "-channels", "#test,#other")
	joined := func(nick string) {
		t.Helper()
		_, next := op.got.await(t, nick+" in #other", op.read, func(m message) bool {
			return m.Command == "JOIN" && m.Prefix.Name == nick && m.param(0) == "#other"
		})
		op.read = next
	}
	joined("robot__")
	op.send("KICK #other robot__ :out")
	op.await("KICK", "out")
	joined("robot__")
	bot.split()
	op.send("KICK #other robot__ :out again")
	op.await("KICK", "out again")
	joined("robot__")
	squatter.send("QUIT :it is yours")
	op.await("NICK", "robot")
	op.say("!generation")
	op.await("PRIVMSG", "generation 2,")
	began := time.Now()
	bot.stop()
	op.await("QUIT", "")
	assert.Less(t, time.Since(began), goodbyeTimeout)
}
