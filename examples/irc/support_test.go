package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNamesAreComparedAsTheServerDoes(t *testing.T) {
	t.Parallel()
	for mapping, same := range map[string]bool{"rfc1459": true, "ascii": false, "strict-rfc1459": false} {
		s := support{CaseMapping: mapping}
		assert.True(t, s.equal("NICK", "nick"))
		assert.Equal(t, same, s.equal("[\\]^", "{|}~"), mapping)
		assert.Equal(t, mapping != "ascii", s.equal("[\\]", "{|}"), mapping)
		assert.False(t, s.equal("\xff", "\xfe"))
	}
	s := newJoinedStage(t)
	s.hear(":x[!a@h PRIVMSG #one :hi", ":s 005 robot CASEMAPPING=ascii :are supported")
	assert.Contains(t, s.bot.memory.channel("#one").Seen, "x[")
}
