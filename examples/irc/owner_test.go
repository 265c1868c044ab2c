package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
)

// splits makes the bot's split return err, and the channel say that it was called.
func (s *stage) splits(err error) <-chan struct{} {
	called := make(chan struct{}, 10)
	s.bot.split = func(context.Context) error {
		called <- struct{}{}
		return err
	}
	return called
}

const refusal = "PRIVMSG #one :bob: only for my owner"

func TestANickIsNoProofOfOwnership(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t, "-owner", "account:bob", "-owner", "bob!~bob@home.example")
	s.bot.memory.Session.Support.ExtendedWhoReply = false
	called := s.splits(nil)
	s.hear(":bob!~bob@elsewhere.example PRIVMSG #one :!restart")
	assert.Equal(t, []string{refusal}, s.said())
	s.hear("@account=bob :bob!x@y PRIVMSG #one :!restart")
	assert.Equal(t, []string{refusal}, s.said(), "a tag that was not negotiated may be anybody's")
	s.hear(":Bob!~BOB@home.EXAMPLE PRIVMSG #one :!restart")
	assert.Empty(t, s.said())
	await(t, called, "the owner's split")
}

func TestTheAccountTagProvesOwnership(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t, "-owner", "account:bob")
	called := s.splits(nil)
	s.hear(":s CAP robot ACK :account-tag")
	for _, tags := range []string{"", "@account=eve ", "@account ", "@+account=bob "} {
		s.hear(tags + ":bob!x@y PRIVMSG #one :!restart")
		assert.Equal(t, []string{refusal}, s.said(), tags)
	}
	s.hear("@account=Bob :whoever!x@y PRIVMSG #one :!restart")
	assert.Empty(t, s.said())
	await(t, called, "the owner's split")
}

func TestTheServerIsAskedForTheAccount(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		replies []string
		owner   bool
	}{
		{"and knows it", []string{":s 354 robot 152 x y bob Bob"}, true},
		{"and knows another one", []string{":s 354 robot 152 x y bob eve"}, false},
		{"and knows none", []string{":s 354 robot 152 x y bob 0"}, false},
		{"and somebody else has the nick by now", []string{":s 354 robot 152 z y bob bob", ":s 315 robot bob :End"}, false},
		{"and the sender has gone", []string{":s 315 robot bob :End"}, false},
		{"and answers somebody else's question", []string{":s 354 robot 999 x y bob bob", ":s 315 robot bob :End"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newJoinedStage(t, "-owner", "account:bob")
			s.splits(nil)
			s.hear(":bob!x@y PRIVMSG #one :!restart", ":bob!x@y PRIVMSG #one :!restart")
			assert.Equal(t, []string{"WHO bob %tuhna,152"}, s.said(), "asked once")
			s = s.restart("-owner", "account:bob") // the question survives a restart
			called := s.splits(nil)
			s.hear(test.replies...)
			if test.owner {
				await(t, called, "the owner's split")
				assert.Empty(t, s.said())
				return
			}
			assert.Equal(t, []string{refusal}, s.said())
			assert.Nil(t, s.bot.memory.Restart)
		})
	}
}

func TestAnAnswerForAnotherPersonIsTakenBack(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t, "-owner", "account:bob")
	s.hear(":bob!x@y PRIVMSG #one :!restart", ":bob!x@y NICK eve", ":owner!x@y NICK bob", ":s 354 robot 152 x y bob bob")
	assert.Equal(t, []string{"WHO bob %tuhna,152"}, s.said())
	assert.Nil(t, s.bot.memory.Restart)
}

func TestTheSecretProvesOwnership(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t, "-penalty", "0")
	require.NoError(t, s.bot.config.Owners.setSecret("correct horse"))
	called := s.splits(nil)
	ask := func(line string) string {
		s.hear(line)
		return strings.Join(s.said(), "\n")
	}
	assert.Equal(t, "NOTICE bob no", ask(":bob!x@y PRIVMSG robot :!auth wrong horse"))
	assert.Equal(t, "NOTICE bob :too soon", ask(":bob!x@y PRIVMSG robot :!auth correct horse"))
	s.pass(authPause)
	assert.Equal(t, "PRIVMSG #one :not here: change that secret, everybody has seen it",
		ask(":bob!x@y PRIVMSG #one :!auth correct horse"))
	assert.Equal(t, refusal, ask(":bob!x@y PRIVMSG #one :!restart"))
	assert.Equal(t, "NOTICE bob :yes, for 10m0s", ask(":bob!x@y PRIVMSG robot :!auth correct horse"))
	assert.Equal(t, refusal, ask(":bob!x@z PRIVMSG #one :!restart"), "another host")
	assert.Empty(t, ask(":bob!x@y PRIVMSG #one :!restart"))
	await(t, called, "the owner's split")
	assert.Equal(t, "PRIVMSG #one :I am at it", ask(":bob!x@y PRIVMSG #one :!restart"))
	s.bot.memory.Restart = nil

	for _, event := range []string{
		":bob!x@y QUIT :bye", ":bob!x@y PART #one", ":bob!x@y NICK eve", ":robot!r@h PART #one",
		":robot!r@h JOIN #one", // stands for time: see below
	} {
		ask(":bob!x@y PRIVMSG robot :!auth correct horse")
		ask(event)
		if strings.Contains(event, "JOIN") {
			s.pass(grantLifetime)
		}
		assert.Equal(t, refusal, ask(":bob!x@y PRIVMSG #one :!restart"), event)
	}
	s.bot.config.Owners = owners{}
	assert.Equal(t, "NOTICE bob :I have no secret", ask(":bob!x@y PRIVMSG robot :!auth "))
	assert.False(t, s.bot.config.Owners.knows(""))
}

func TestTheNextGenerationAnswersARestart(t *testing.T) {
	t.Parallel()
	s := newJoinedStage(t, "-owner", "bob!x@y")
	called := s.splits(nil)
	s.hear(":bob!x@y PRIVMSG #one :!restart")
	await(t, called, "the split")
	assert.Empty(t, s.said())
	s.pass(80 * time.Millisecond)
	next := s.restart("-owner", "bob!x@y")
	said := next.said()
	require.Len(t, said, 1)
	assert.Regexp(t, `^PRIVMSG #one :generation 2, process \d+, 80ms after you asked$`, said[0])
	assert.Nil(t, next.bot.memory.Restart)
}

func TestAFailedRestartIsReported(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		text string
	}{
		{fmt.Errorf("mitosis: split: process 123: /some/path: %w", mitosis.ErrChildExited), "the new process exited"},
		{mitosis.ErrSplitting, "another restart is under way"},
		{mitosis.ErrTimeout, "it took too long"},
		{errors.New("what is this"), "see my log"},
	} {
		s := newJoinedStage(t, "-owner", "bob!x@y")
		called := s.splits(test.err)
		s.hear(":bob!x@y PRIVMSG #one :!restart")
		await(t, called, "the split")
		var said []string
		require.Eventually(t, func() bool {
			said = s.said()
			return len(said) > 0
		}, 5*time.Second, time.Millisecond)
		assert.Equal(t, []string{"PRIVMSG #one :restart failed, still generation 1: " + test.text}, said)
		assert.Nil(t, s.bot.memory.Restart)
	}
}

func TestMasksMatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"*", "", true}, {"*", "abc", true}, {"?", "", false},
		{"a*c", "abbc", true}, {"a*c", "ab", false}, {"*b*", "abc", true}, {"a?c", "abc", true}, {"a?c", "ac", false},
		{"*a*a*a*", "aa", false}, {"*a*a*a*", "xaxaxax", true}, {"*ab", "aab", true}, {"a**", "a", true},
		{"bob!*@*.home.example", "bob!b@x.home.example", true}, {"bob!*@*.home.example", "bob!b@home.example", false},
	} {
		assert.Equal(t, test.want, matches(test.pattern, test.s), "%q %q", test.pattern, test.s)
	}
}

func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		require.FailNow(t, "waited in vain for "+what)
	}
	return v
}
