package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFlagsAreChecked(t *testing.T) {
	for _, test := range []struct {
		arguments string
		ok        bool
	}{
		{"", true},
		{"-server host -nick a -channels #a,#b -owner account:bob -owner b!*@host.example", true},
		{"-server ::1", true},
		{"-owner bob", false},
		{"-owner bob!*@*", false},
		{"-owner bob!b", false},
		{"-owner !b@h", false},
		{"-owner account:", false},
		{"-owner account:*", false},
		{"-nick a!b", false},
		{"-nick=", false},
		{"-burst 0", false},
		{"-penalty -1s", false},
		{"-rejoin 0", false},
		{"-channels :a", false},
		{"-secret-file /does/not/exist", false},
		{"-tls", false},
		{"word", false},
	} {
		c, err := parseFlags("irc", strings.Fields(test.arguments))
		assert.Equal(t, test.ok, err == nil, "%q: %v", test.arguments, err)
		if test.arguments == "-server ::1" {
			assert.Equal(t, "[::1]:6667", c.Server)
		}
	}
	t.Setenv(secretVariable, "short")
	_, err := parseFlags("irc", nil)
	assert.Error(t, err)
	t.Setenv(secretVariable, "long enough, this one")
	c, err := parseFlags("irc", []string{"-channels", "#a  key, #b,"})
	require.NoError(t, err)
	assert.True(t, c.Owners.knows("long enough, this one"))
	assert.Equal(t, []wantedChannel{{"#a", "key"}, {"#b", ""}}, c.Channels)
}
