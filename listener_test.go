//go:build unix

package mitosis

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// listenTo changes a plan: the listener "web" is another one.
func listenTo(how, network, address string) func(*plan) {
	return func(p *plan) {
		p.Sockets = []plannedSocket{{Name: "web", How: how, Network: network, Address: address}}
	}
}

// warm changes a plan: Ready waits for the call "release", "ready".
func warm(p *plan) { p.Warm = true }

// idle changes a plan: nothing is accepted or read until the call "serve".
func idle(p *plan) { p.Idle = true }

// temporary returns a directory whose name is short enough for a Unix socket.
func temporary(t testing.TB) string {
	dir, err := os.MkdirTemp("", "mitosis")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListenersServeOverThreeGenerations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, how, network, address string }{
		{"tcp", "listen", "tcp", "127.0.0.1:0"},
		{"tcp without a host", "listen", "tcp", ":0"},
		{"tcp4", "listen", "tcp4", ":0"},
		{"tcp6", "listen", "tcp6", "[::1]:0"},
		{"unix", "listen", "unix", filepath.Join(temporary(t), "socket")},
		{"unixpacket", "listen", "unixpacket", filepath.Join(temporary(t), "socket")},
		{"an added tcp listener", "add", "tcp", "127.0.0.1:0"},
		{"an added unix listener", "add", "unix", filepath.Join(temporary(t), "socket")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(listenTo(c.how, c.network, c.address)))
			serveThreeGenerations(t, first, c.network)
		})
	}
}

func serveThreeGenerations(t *testing.T, first *generation, network string) {
	t.Helper()
	address := first.do("address", "web")
	old := dial(t, network, address)
	require.Equal(t, answer{"a", 1, first.pid, 1}, old.ask("a"))

	second := first.split()
	assert.Equal(t, address, second.do("address", "web"), "a port that was chosen is kept")
	assert.Equal(t, answer{"b", 2, second.pid, 2}, dial(t, network, address).ask("b"))
	assert.Equal(t, 1, old.ask("c").Generation, "a connection stays where it was accepted")
	ended := first.await("accept ended")
	assert.ErrorIs(t, ended.Error, ErrSuperseded)
	assert.ErrorIs(t, ended.Error, net.ErrClosed)
	assert.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
	old.hangUp()
	first.awaitEnd()

	third := second.split()
	assert.Equal(t, answer{"d", 3, third.pid, 3}, dial(t, network, address).ask("d"))
	assert.Equal(t, "3", third.do("generation"))
}

func TestAListenerFoundByItsNameServes(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	address := first.do("address", "web")
	first.plans(web(listenTo("listener", "", "")))
	second := first.split()
	assert.Equal(t, 2, dial(t, "tcp", address).ask("a").Generation)
	third := second.split()
	assert.Equal(t, 3, dial(t, "tcp", address).ask("a").Generation)
	_, err := third.try("open", "nothing", "listener", "", "")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = third.try("open", "web", "packet conn", "", "")
	assert.ErrorIs(t, err, ErrNotFound)
	assert.ErrorContains(t, err, "listener", "it says what the name is")
}

func TestAnAddressThatMeansTheSameIsInherited(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	address := first.do("address", "web")
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	first.plans(web(listenTo("listen", "tcp", "localhost:"+port)))
	second := first.split()
	assert.Equal(t, 2, dial(t, "tcp", address).ask("a").Generation)
	assert.Equal(t, address, second.do("address", "web"))
}

func TestANameWithAnotherAddressLetsTheOldOneGoAtTheCommit(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	before := first.do("address", "web")
	first.plans(web(listenTo("listen", "tcp", "localhost:0"), warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	after := second.do("address", "web")
	require.NotEqual(t, before, after)
	assert.Equal(t, 1, dial(t, "tcp", before).ask("a").Generation)
	early := dial(t, "tcp", after)
	early.say("b")

	second.do("release", "ready")
	_, err := first.answer(done)
	require.NoError(t, err)
	second.await("serving")
	assert.Equal(t, answer{"b", 2, second.pid, 2}, early.hear())
	refuses(t, "tcp", before)
	first.awaitLog("nobody asked for it", `"name":"web"`, `"generation":2`)
}

func TestASplitThatFailsKeepsTheOldAddress(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	before := first.do("address", "web")
	first.plans(web(listenTo("listen", "tcp", "localhost:0"), warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	after := second.do("address", "web")
	second.kill()
	_, err := first.answer(done)
	require.ErrorIs(t, err, ErrChildExited)
	refuses(t, "tcp", after)
	assert.Equal(t, 1, dial(t, "tcp", before).ask("a").Generation)
}

func TestAListenerThatNobodyAskedForIsClosedAtTheCommit(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) {
		p.Sockets = append(p.Sockets, plannedSocket{"metrics", "listen", "tcp", "127.0.0.1:0"})
	}))
	metrics := first.do("address", "metrics")
	first.plans(web(warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	assert.Equal(t, 1, dial(t, "tcp", metrics).ask("a").Generation, "until the commit it serves")
	second.do("release", "ready")
	_, err := first.answer(done)
	require.NoError(t, err)
	refuses(t, "tcp", metrics)
	first.awaitLog("nobody asked for it", `"name":"metrics"`, `"generation":2`)
	assert.Empty(t, findLine(first.log(), "nobody asked for it", `"name":"web"`))
}

func TestAListenerOpenedWhileServingIsInherited(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	first.do("open", "late", "listen", "tcp", "127.0.0.1:0")
	address := first.do("address", "late")
	first.plans(web(listenTo("listener", "", ""), func(p *plan) {
		p.Sockets = append(p.Sockets, plannedSocket{Name: "late", How: "listener"})
	}))
	first.split()
	assert.Equal(t, 2, dial(t, "tcp", address).ask("a").Generation)
}

func TestOpeningAListenerDuringASplitWaitsForItsOutcome(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	first.plans(web(warm))
	done := first.begin("split")
	second := first.generation()
	second.await("warm")
	opened := first.begin("open", "late", "listen", "tcp", "127.0.0.1:0")
	removed := first.begin("remove", "web")
	assert.Equal(t, 1, first.dial("web").ask("a").Generation)
	assert.Empty(t, opened)
	assert.Empty(t, removed)
	second.kill()
	_, err := first.answer(done)
	require.ErrorIs(t, err, ErrChildExited)
	_, err = first.answer(opened)
	assert.NoError(t, err)
	_, err = first.answer(removed)
	assert.NoError(t, err)

	done = first.begin("split")
	second = first.generation()
	second.await("warm")
	opened = first.begin("open", "later", "listen", "tcp", "127.0.0.1:0")
	second.do("release", "ready")
	_, err = first.answer(done)
	require.NoError(t, err)
	_, err = first.answer(opened)
	assert.ErrorIs(t, err, ErrSuperseded)
}

func TestARemovedListenerStaysWithItsGeneration(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) {
		p.Sockets = append(p.Sockets, plannedSocket{"mine", "listen", "tcp", "127.0.0.1:0"})
	}))
	address := first.do("address", "mine")
	first.do("remove", "mine")
	_, err := first.try("remove", "mine")
	require.ErrorIs(t, err, ErrNotFound)
	held := dial(t, "tcp", address) // so that the old generation does not exit
	held.ask("a")
	first.plans(web())
	second := first.split()
	assert.Equal(t, 1, dial(t, "tcp", address).ask("b").Generation, "the registry has nothing to do with it any more")
	_, err = second.try("open", "mine", "listener", "", "")
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestAListenerThatWasClosedIsNotHandedOver(t *testing.T) {
	t.Parallel()
	first := start(t, web(func(p *plan) {
		p.Sockets = append(p.Sockets, plannedSocket{"short", "listen", "tcp", "127.0.0.1:0"})
	}))
	address := first.do("address", "short")
	first.do("close", "short")
	assert.ErrorIs(t, first.await("accept ended").Error, net.ErrClosed)
	refuses(t, "tcp", address)
	_, err := first.try("close", "short")
	assert.ErrorIs(t, err, net.ErrClosed)
	first.plans(web())
	second := first.split()
	_, err = second.try("open", "short", "listener", "", "")
	assert.ErrorIs(t, err, ErrNotFound)
}

// A new generation that is in a hurry to accept gets nothing before the commit, and
// so swallows nothing when it dies.
func TestANewProcessTakesNothingBeforeTheCommit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		network string
		sockets func(*plan)
		connect func(t testing.TB, network, address string) *client
		ask     func(*client, string) answer
	}{
		{"tcp", listenTo("listen", "tcp", "127.0.0.1:0"), dial, (*client).ask},
		{"udp", packets("packet", "udp", "127.0.0.1:0"), dialPacket, (*client).askDatagram},
	} {
		t.Run(c.network, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(c.sockets))
			address := first.do("address", "web")
			asks := func(generation int) {
				t.Helper()
				for range 50 {
					client := c.connect(t, c.network, address)
					require.Equal(t, generation, c.ask(client, "a").Generation)
					client.hangUp()
				}
			}
			first.plans(web(c.sockets, warm, func(p *plan) { p.Eager = true }))
			done := first.begin("split")
			second := first.generation()
			second.await("warm")
			asks(1)
			second.kill()
			_, err := first.answer(done)
			require.ErrorIs(t, err, ErrChildExited)
			asks(1)

			done = first.begin("split")
			second = first.generation()
			second.await("warm")
			asks(1)
			second.do("release", "ready")
			_, err = first.answer(done)
			require.NoError(t, err)
			asks(2)
		})
	}
}

// Nothing accepted is dropped, nor what nobody has accepted yet.
func TestTwoHundredClientsInTheAcceptQueueSurviveTwentySplits(t *testing.T) {
	t.Parallel()
	current := start(t, web(at(stepOldFrozen, "hold")))
	address := current.do("address", "web")
	total := 0
	for range 20 {
		done := current.begin("split")
		current.await("held")
		clients := make([]*client, 200)
		for i := range clients {
			clients[i] = dial(t, "tcp", address)
			clients[i].say("a")
		}
		current.do("release", stepOldFrozen)
		next := current.generation()
		_, err := current.answer(done)
		require.NoError(t, err)
		for _, c := range clients {
			require.Equal(t, next.pid, c.hear().Pid)
			c.hangUp()
		}
		total += len(clients)
		current.awaitEnd()
		current = next
	}
	assert.Equal(t, total+1, dial(t, "tcp", address).ask("last").Requests)
}

func TestAThousandListenersAreHandedOverWithoutAMixUp(t *testing.T) {
	t.Parallel()
	p := plan{}
	for n := range 1000 {
		// Names as long as may be: more than fits into one variable.
		name := strconv.Itoa(n) + " " + strings.Repeat("ü", 125)
		p.Sockets = append(p.Sockets, plannedSocket{name, "listen", "tcp", "127.0.0.1:0"})
	}
	first := start(t, p)
	addresses := make([]string, len(p.Sockets))
	for n, s := range p.Sockets {
		addresses[n] = first.do("address", s.Name)
	}
	second := first.split()
	third := second.split()
	for n, s := range p.Sockets {
		require.Equal(t, addresses[n], third.do("address", s.Name), "listener %d", n)
	}
	for _, n := range []int{0, 1, 499, 500, 501, 999} {
		assert.Equal(t, 3, dial(t, "tcp", addresses[n]).ask("a").Generation)
	}
}
