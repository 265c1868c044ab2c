//go:build unix

package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheOwnerIsKnownByAccount(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, modules string }{
		{"as each message says", `<module name="cap"><module name="ircv3_accounttag">`},
		{"as the server says when asked", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			server := inspircd.start(t, test.modules+fmt.Sprintf(`
<module name="spanningtree"><module name="services_account">
<bind address="127.0.0.1" port="%d" type="servers">
<link name="services.test" ipaddr="127.0.0.1" port="1" allowmask="127.0.0.1" sendpass="secret" recvpass="secret">
`, port))
			services := newServices(t, port)
			owner := newClient(t, server, "owner")
			eve := newClient(t, server, "eve")
			bot := startBot(t, server, "-owner", "account:bobby")
			owner.await("JOIN", "#test") // its own one is gone by: that of eve
			owner.await("JOIN", "#test") // the bot's
			owner.ask("!restart", "owner: only for my owner")
			services.logIn("owner", "bobby")
			services.logIn("eve", "eve")
			owner.await("900", "")
			eve.await("900", "")
			eve.ask("!restart", "eve: only for my owner")
			owner.ask("!restart", "generation 2,")
			bot.awaitLog("INFO ready ")
			eve.ask("!restart", "eve: only for my owner")
			owner.ask("!restart", "generation 3,")
			bot.stop()
		})
	}
}

// services is what keeps the accounts of a network: a server of its own, linked to an inspircd.
type services struct {
	t    *testing.T
	conn net.Conn
	got  *journal[string]
}

func newServices(t *testing.T, port int) *services {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	require.NoError(t, err)
	s := &services{t: t, conn: conn, got: newJournal[string]()}
	t.Cleanup(func() {
		_ = conn.Close()
		s.got.awaitEnd(t, "the end of the link")
	})
	go func() {
		defer s.got.end()
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			s.got.add(lines.Text())
		}
	}()
	s.send("CAPAB START 1205", "CAPAB CAPABILITIES :CASEMAPPING=rfc1459", "CAPAB END",
		"SERVER services.test secret 0 2SV :services")
	s.await("SERVER irc.test ")
	s.send(fmt.Sprintf(":2SV BURST %d", time.Now().Unix()), ":2SV ENDBURST")
	s.await(":1AA ENDBURST")
	return s
}

func (s *services) send(lines ...string) {
	s.t.Helper()
	_, err := s.conn.Write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
	require.NoError(s.t, err)
}

func (s *services) await(part string) string {
	s.t.Helper()
	line, _ := s.got.await(s.t, part, 0, func(line string) bool { return strings.Contains(line, part) })
	return line
}

// logIn makes a nick logged in to an account.
func (s *services) logIn(nick, account string) {
	s.t.Helper()
	fields := strings.Fields(s.await(" " + nick + " 127.0.0.1 ")) // :1AA UID number time nick host ...
	require.Equal(s.t, "UID", fields[1])
	s.send(":2SV METADATA " + fields[2] + " accountname :" + account)
}
