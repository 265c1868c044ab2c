//go:build unix

package main

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A fakeServer says to the bot exactly what a test wants it to, at the moment when it wants it to.
type fakeServer struct {
	t    *testing.T
	ln   net.Listener
	conn net.Conn
	got  *bufio.Reader
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &fakeServer{t: t, ln: ln}
	t.Cleanup(func() { _ = s.ln.Close() })
	return s
}

func (s *fakeServer) address() string { return s.ln.Addr().String() }

// accept waits for the bot to connect.
func (s *fakeServer) accept() {
	s.t.Helper()
	require.NoError(s.t, s.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
	conn, err := s.ln.Accept()
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	s.conn, s.got = conn, bufio.NewReader(conn)
}

// say sends the text as it is.
func (s *fakeServer) say(text string) {
	s.t.Helper()
	require.NoError(s.t, s.conn.SetWriteDeadline(time.Now().Add(patience)))
	_, err := s.conn.Write([]byte(text))
	require.NoError(s.t, err)
}

// expect waits for exactly these lines.
func (s *fakeServer) expect(lines ...string) {
	s.t.Helper()
	for _, want := range lines {
		require.NoError(s.t, s.conn.SetReadDeadline(time.Now().Add(patience)))
		got, err := s.got.ReadString('\n')
		require.NoError(s.t, err, "instead of %q", want)
		require.Equal(s.t, want+"\r\n", got)
	}
}

// welcome takes the bot up to its channel.
func (s *fakeServer) welcome() {
	s.t.Helper()
	s.accept()
	s.expect("CAP LS 302", "NICK robot", "USER mitosis 0 * :"+version)
	s.say(":s 421 * CAP :Unknown command\r\n:s 001 robot :Welcome\r\n")
	s.expect("JOIN #test")
	s.say(":robot!r@h JOIN #test\r\n")
}

// check asks something whose answer shows that nothing else has been said before, and by whom it is given.
func (s *fakeServer) check(generation int) {
	s.t.Helper()
	s.say(":al!a@h PRIVMSG #test :!generation\r\n")
	require.NoError(s.t, s.conn.SetReadDeadline(time.Now().Add(patience)))
	got, err := s.got.ReadString('\n')
	require.NoError(s.t, err)
	require.Contains(s.t, got, "PRIVMSG #test :generation "+strconv.Itoa(generation)+", ")
}

// farewell stops the bot and expects it to say so.
func (s *fakeServer) farewell(bot *botProcess) {
	s.t.Helper()
	bot.signal(syscall.SIGTERM)
	s.expect("QUIT :told to stop")
	require.NoError(s.t, s.conn.Close())
	bot.log.awaitEnd(s.t, "the end of the bot")
}

func TestARestartInTheMiddleOfALine(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	bot := startBot(t, s.address())
	s.welcome()
	s.say("PING one\r\nPING :tw")
	s.expect("PONG one")
	bot.split()
	s.say("o and ")
	bot.failSplit(exitsAfterInit)
	s.say("a half\r")
	bot.split()
	s.say("\n")
	s.expect("PONG :two and a half")
	s.check(3)
	s.farewell(bot)
}

func TestARestartInTheMiddleOfALineThatIsTooLong(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	bot := startBot(t, s.address())
	s.welcome()
	s.say(":al!a@h PRIVMSG #test :!ping " + strings.Repeat("x", 10000))
	bot.awaitLog("line too long")
	bot.split()
	s.say(strings.Repeat("x", 100) + "\r\nPING one\r\n")
	s.expect("PONG one")
	s.check(2)
}

func TestARestartBeforeTheServerHasWelcomedTheBot(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	bot := startBot(t, s.address())
	s.accept()
	s.expect("CAP LS 302", "NICK robot", "USER mitosis 0 * :"+version)
	bot.split()
	s.say(":s CAP * LS :account-tag\r\n")
	s.expect("CAP REQ account-tag")
	bot.split()
	s.say(":s CAP * ACK :account-tag\r\n:s 433 * robot :Nickname is already in use\r\n")
	s.expect("CAP END", "NICK robot_")
	bot.split()
	s.say(":s 001 robot_ :Welcome\r\n")
	s.expect("JOIN #test")
}

func TestARestartWithMuchToSay(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	bot := startBot(t, s.address(), "-penalty", "2ms", "-burst", "6") // a line every 2 ms: there is one in every cut
	s.welcome()
	const rounds = 4
	for round := range rounds {
		var questions strings.Builder
		var answers []string
		for i := range maxQueue * 3 / 4 {
			token := strconv.Itoa(round*maxQueue + i)
			questions.WriteString(":al!a@h PRIVMSG #test :!ping " + token + "\r\n")
			answers = append(answers, "PRIVMSG #test :pong "+token)
		}
		s.say(questions.String())
		bot.split()
		bot.failSplit(exitsWithThree)
		bot.split()
		s.expect(answers...)
	}
	s.check(1 + 2*rounds)
}

func TestARestartUnderABacklog(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	bot := startBot(t, s.address())
	s.welcome()
	const questions = 3000
	go func() {
		for i := range questions {
			_, _ = s.conn.Write([]byte(":al!a@h PRIVMSG #test :!ping " + strconv.Itoa(i) + "\r\n"))
		}
	}()
	for i := range questions {
		if i%600 == 300 {
			bot.split()
		}
		s.expect("PRIVMSG #test :pong " + strconv.Itoa(i))
	}
	s.check(1 + questions/600)
}

func TestALostConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	bot := startBot(t, s.address())
	s.welcome()
	s.say("ERROR :Closing link\r\n")
	require.NoError(t, s.conn.Close())
	s.welcome()
	s.check(1)
	bot.split()
	s.check(2)
	require.NoError(t, s.conn.Close())
	s.welcome()
	s.check(2)
	s.farewell(bot)
}

func TestARestartWithoutAConnection(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	address := s.address()
	require.NoError(t, s.ln.Close())
	bot := startBot(t, address)
	bot.awaitLog("no connection")
	bot.split()
	bot.awaitLog("no connection")
	var err error
	s.ln, err = net.Listen("tcp", address)
	require.NoError(t, err)
	s.welcome()
	s.check(2)
	bot.split()
	s.check(3)
}

func TestABotWithoutAConnectionStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	require.NoError(t, s.ln.Close())
	bot := startBot(t, s.address(), "-reconnect", "1h")
	bot.awaitLog("no connection")
	bot.split()
	bot.stop()
}
