//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

// A chat is a server in this process, with all its generations.
type chat struct {
	*server
	t      *testing.T
	config config
}

func newChat(t *testing.T, c config) *chat {
	t.Helper()
	c.address = "127.0.0.1:0"
	m := mitosistest.New(t, mitosis.Options{Logger: slog.New(slog.DiscardHandler)})
	s, err := newServer(m, c)
	require.NoError(t, err)
	require.NoError(t, m.Ready(t.Context()))
	s.start()
	chat := &chat{server: s, t: t, config: c}
	t.Cleanup(func() { chat.stop(patience) })
	return chat
}

// split hands over to the next generation, and wants the old one to end.
func (c *chat) split() {
	c.t.Helper()
	old := c.server
	_, err := mitosistest.Split(c.t, old.registry, func(m *mitosis.Registry) error {
		s, err := newServer(m, c.config)
		if err != nil {
			return err
		}
		if err := m.Ready(context.Background()); err != nil {
			return err
		}
		s.start()
		c.server = s
		return nil
	})
	require.NoError(c.t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		old.running.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		require.FailNow(c.t, "the old generation does not end")
	}
}

// failToSplit lets the next generation get everything and then refuse it.
func (c *chat) failToSplit() {
	c.t.Helper()
	refusal := errors.New("not for me")
	_, err := mitosistest.Split(c.t, c.registry, func(m *mitosis.Registry) error {
		if _, err := newServer(m, c.config); err != nil {
			return err
		}
		if err := m.State("other", mitosis.Bytes(new([]byte))); err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(refusal)
		return m.Ready(ctx)
	})
	require.ErrorContains(c.t, err, refusal.Error())
}

// eventually waits until condition holds, with mu held.
func (c *chat) eventually(what string, condition func() bool) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return condition()
	}, patience, time.Millisecond, what)
}

// isBlocked says whether a client takes nothing more: a Write is under way, and much waits.
func (c *chat) isBlocked(nick string) bool {
	client := c.nicks[nick]
	return client != nil && client.writing && len(client.Out) > 200<<10
}

var standard = config{history: 3, limit: 512 << 10}

func TestRoomsNicksHistoryAndConnectionsAreThereInEveryGeneration(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	address := chat.listener.Addr().String()
	anna := newPerson(t, address)
	anna.hears("* welcome, guest1; "+usage, "* guest1 has joined lobby")
	anna.say("/nick anna")
	anna.hears("* guest1 is now anna")
	ben := newPerson(t, address)
	ben.hears("* welcome, guest2; "+usage, "* guest2 has joined lobby")
	anna.hears("* guest2 has joined lobby")
	ben.say("/nick Anna", "/nick ben")
	ben.hears("* Anna is taken", "* guest2 is now ben")
	anna.hears("* guest2 is now ben")
	anna.say("one", "two", "/generation")
	anna.hears("<anna> one", "<anna> two", "* generation 1")
	ben.hears("<anna> one", "<anna> two")
	_, err := io.WriteString(ben, "thr") // the line goes through the cut in two pieces
	require.NoError(t, err)

	chat.split()
	ben.say("ee", "four", "/history", "/who", "/generation")
	ben.hears("<ben> three", "<ben> four", "* the last 3 lines of lobby", "<anna> two", "<ben> three", "<ben> four",
		"* in lobby: anna, ben", "* generation 2")
	anna.hears("<ben> three", "<ben> four")
	carl := newPerson(t, address)
	carl.hears("* welcome, guest3; "+usage, "* guest3 has joined lobby")
	carl.say("/nick ANNA", "/join attic", "echo")
	carl.hears("* ANNA is taken", "* guest3 has joined attic", "<guest3> echo")
	anna.hears("* guest3 has joined lobby", "* guest3 has left lobby")

	chat.split()
	carl.say("/history", "/who", "/generation")
	carl.hears("* the last 1 lines of attic", "<guest3> echo", "* in attic: guest3", "* generation 3")
	ben.awaits("* guest3 has left lobby")
	ben.say("/quit")
	ben.hears("* goodbye")
	ben.isSentAway()
	anna.hears("* ben has left lobby")
	anna.say("/nick ben", "five")
	anna.hears("* anna is now ben", "<ben> five")
	newPerson(t, address).hears("* welcome, guest4; "+usage, "* guest4 has joined lobby")
}

func TestCommandsThatMakeNoSenseAreAnswered(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	p := newPerson(t, chat.listener.Addr().String())
	p.awaits("* guest1 has joined")
	p.say("/dance", "/nick", "/nick a b", "/nick "+strings.Repeat("a", 25), "/nick guest1")
	p.say("/join", "/join lobby", "/join /")
	p.hears("* /dance is not known; "+usage, "* "+tagRule, "* "+tagRule, "* "+tagRule, "* you are guest1", "* "+tagRule,
		"* you are in lobby", "* "+tagRule)
	p.say("", "  ", "\a\r", " a\x1b[2J\tb\xff\u202e \r")
	p.hears("<guest1> a[2J b")
}

func TestARoomEndsWithItsLastMember(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	p := newPerson(t, chat.listener.Addr().String()).named("anna", "attic")
	p.say("hello", "/join cellar", "/join attic", "/history")
	p.hears("<anna> hello", "* anna has joined cellar", "* anna has joined attic", "* the last 0 lines of attic")
	chat.mu.Lock()
	defer chat.mu.Unlock()
	require.Len(t, chat.memory.Rooms, 1)
}

func TestALastLineWithoutANewlineIsHeardAndTheRestIsSent(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	p := newPerson(t, chat.listener.Addr().String())
	p.awaits("* guest1 has joined")
	_, err := io.WriteString(p, "first\nlast")
	require.NoError(t, err)
	require.NoError(t, p.CloseWrite())
	p.hears("<guest1> first", "<guest1> last", "* goodbye")
	p.isSentAway()
	chat.eventually("nobody is left", func() bool {
		return len(chat.memory.Clients)+len(chat.nicks)+len(chat.memory.Rooms) == 0
	})
}

func TestALineThatIsTooLongEndsTheConnection(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	anna := newPerson(t, chat.listener.Addr().String()).named("anna", "attic")
	ben := newPerson(t, chat.listener.Addr().String()).named("ben", "attic")
	anna.hears("* ben has joined attic")
	ben.say(strings.Repeat("b", 100<<10), "and more")
	ben.hears("* goodbye: a line is too long")
	require.NoError(t, ben.CloseWrite())
	ben.isSentAway()
	anna.hears("* ben has left attic (a line is too long)")
}

func TestAConnectionThatBreaksLeavesTheRoom(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	anna := newPerson(t, chat.listener.Addr().String()).named("anna", "attic")
	ben := newPerson(t, chat.listener.Addr().String()).named("ben", "attic")
	anna.hears("* ben has joined attic")
	chat.split()
	require.NoError(t, ben.SetLinger(0))
	require.NoError(t, ben.Close())
	anna.hears("* ben has left attic")
	chat.eventually("one is left", func() bool { return len(chat.memory.Clients) == 1 })
}

func TestAConnectionThatWasAcceptedTooLateGoesToTheNextGeneration(t *testing.T) {
	t.Parallel()
	chat := newChat(t, standard)
	entrance, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer entrance.Close()
	late := newPerson(t, entrance.Addr().String())
	accepted, err := entrance.Accept()
	require.NoError(t, err)
	old := chat.server
	chat.split()
	old.admit(accepted)
	late.say("hello", "/generation")
	late.hears("* welcome, guest1; "+usage, "* guest1 has joined lobby", "<guest1> hello", "* generation 2")
}

func TestPeopleWhoComeDuringSplitsAreAllWelcome(t *testing.T) {
	t.Parallel()
	const splits, callers = 20, 4
	chat := newChat(t, standard)
	address := chat.listener.Addr().String()
	var calling sync.WaitGroup
	var welcome atomic.Int64
	stop := make(chan struct{})
	failures := make(chan error, callers)
	for range callers {
		calling.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := call(address); err != nil {
					failures <- err
					return
				}
				welcome.Add(1)
			}
		})
	}
	for range splits {
		before := welcome.Load()
		chat.split()
		require.Eventually(t, func() bool { return welcome.Load() > before+callers || len(failures) > 0 }, patience, time.Millisecond)
	}
	close(stop)
	calling.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
}

// call comes, quits, and wants to have been heard.
func call(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "/generation\n/quit\n"); err != nil {
		return err
	}
	heard, err := io.ReadAll(c)
	if err == nil && !strings.HasSuffix(string(heard), "* goodbye\n") {
		err = fmt.Errorf("no goodbye, but %q", heard)
	}
	return err
}

// flood lets anna say numbered lines, from the given number on, until the slow one takes nothing more.
// It returns the number of the next line.
func (c *chat) flood(anna *person, from int) int {
	c.t.Helper()
	for n, limit := from, time.Now().Add(patience); ; n++ {
		c.mu.Lock()
		blocked := c.isBlocked("slow")
		c.mu.Unlock()
		if blocked {
			return n
		}
		require.False(c.t, time.Now().After(limit), "the slow one is not blocked")
		anna.say(numbered(n))
		anna.hears("<anna> " + numbered(n))
	}
}

func numbered(n int) string { return fmt.Sprintf("%d %s", n, strings.Repeat("x", 3000)) }

func TestWhatWaitsForASlowClientArrivesExactlyOnceAfterManySplits(t *testing.T) {
	t.Parallel()
	chat := newChat(t, config{limit: 64 << 20})
	address := chat.listener.Addr().String()
	slow := newSlowPerson(t, address).named("slow", "attic")
	anna := newPerson(t, address).named("anna", "attic")
	slow.hears("* anna has joined attic")

	said, heard := 0, 0
	for i := range 10 {
		said = chat.flood(anna, said)
		if i == 5 {
			chat.failToSplit()
		} else {
			chat.split()
		}
		for range 10 { // a part is read in each generation
			slow.hears("<anna> " + numbered(heard))
			heard++
		}
	}
	anna.say("/generation")
	anna.hears("* generation 10")
	for ; heard < said; heard++ {
		slow.hears("<anna> " + numbered(heard))
	}
	anna.say("done")
	slow.hears("<anna> done")
}

func TestAClientWhoseQueueIsFullIsDroppedWithAMessage(t *testing.T) {
	t.Parallel()
	dropSlowClient(t, false)
}

func TestAClientThatIsBeingDroppedTravelsWithWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	dropSlowClient(t, true)
}

// dropSlowClient fills the queue of a client, with a split while the client leaves, or without.
func dropSlowClient(t *testing.T, split bool) {
	t.Helper()
	chat := newChat(t, config{limit: 300 << 10})
	address := chat.listener.Addr().String()
	slow := newSlowPerson(t, address).named("slow", "attic")
	anna := newPerson(t, address).named("anna", "attic")
	slow.hears("* anna has joined attic")
	var most int
	n := 0
	for limit := time.Now().Add(patience); ; n++ {
		anna.say(numbered(n))
		anna.hears("<anna> " + numbered(n))
		chat.mu.Lock()
		client := chat.memory.Clients["client/1"]
		most = max(most, len(client.Out))
		left := client.leaving()
		chat.mu.Unlock()
		if left {
			break
		}
		require.False(t, time.Now().After(limit))
	}
	require.LessOrEqual(t, most, 300<<10+len("* goodbye: "+tooSlow+"\n"))
	anna.hears("* slow has left attic (" + tooSlow + ")")
	if split {
		chat.split()
	}
	anna.say("/who")
	anna.hears("* in attic: anna")
	for i := range n {
		slow.hears("<anna> " + numbered(i))
	}
	slow.hears("* goodbye: " + tooSlow)
	require.NoError(t, slow.CloseWrite())
	slow.isSentAway()
}

func TestBusyWritersLoseAndRepeatNothingInManySplits(t *testing.T) {
	t.Parallel()
	const splits, window = 40, 8
	chat := newChat(t, config{limit: 16 << 20})
	people := newCrowd(t, chat.listener.Addr().String(), 20)
	people.begin(window)
	for range splits {
		chat.split()
	}
	people.end(t)
}
