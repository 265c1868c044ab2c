//go:build unix

package mitosis

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dialPacket returns a client that sends datagrams.
func dialPacket(t testing.TB, network, address string) *client {
	t.Helper()
	if network != "unixgram" {
		return dial(t, network, address)
	}
	local := &net.UnixAddr{Net: network, Name: filepath.Join(temporary(t), "client")}
	c, err := net.DialUnix(network, local, &net.UnixAddr{Net: network, Name: address})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &client{t: t, conn: c}
}

// sayDatagram and hearDatagram are say and hear for datagrams.
func (c *client) sayDatagram(text string) {
	c.t.Helper()
	_, err := c.conn.Write([]byte(text))
	require.NoError(c.t, err)
}

func (c *client) hearDatagram() answer {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(bound))
	b := make([]byte, 1000)
	n, err := c.conn.Read(b)
	require.NoError(c.t, err)
	return c.parse(string(b[:n]))
}

func (c *client) askDatagram(text string) answer {
	c.t.Helper()
	c.sayDatagram(text)
	return c.hearDatagram()
}

// packets changes a plan: the socket "web" is a packet socket.
func packets(how, network, address string) func(*plan) { return listenTo(how, network, address) }

func TestPacketSocketsServeOverThreeGenerations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, how, network, address string }{
		{"udp", "packet", "udp", "127.0.0.1:0"},
		{"udp4", "packet", "udp4", "127.0.0.1:0"},
		{"udp6", "packet", "udp6", "[::1]:0"},
		{"unixgram", "packet", "unixgram", filepath.Join(temporary(t), "socket")},
		{"an added udp socket", "add packet", "udp", "127.0.0.1:0"},
		{"an added unixgram socket", "add packet", "unixgram", filepath.Join(temporary(t), "socket")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(packets(c.how, c.network, c.address)))
			address := first.do("address", "web")
			client := dialPacket(t, c.network, address)
			require.Equal(t, answer{"a", 1, first.pid, 1}, client.askDatagram("a"))
			second := first.split()
			assert.Equal(t, address, second.do("address", "web"))
			assert.ErrorIs(t, first.await("receive ended").Error, ErrSuperseded)
			assert.Equal(t, answer{"b", 2, second.pid, 2}, client.askDatagram("b"))
			first.awaitEnd()
			third := second.split()
			assert.Equal(t, answer{"c", 3, third.pid, 3}, client.askDatagram("c"))
		})
	}
}

func TestDatagramsThatArriveDuringTheCutAreReadByWhoeverOwnsTheSocketAfterwards(t *testing.T) {
	t.Parallel()
	const datagrams = 50
	for _, c := range []struct {
		name  string
		child func(*plan)
		owner int
	}{
		{"the new one after the commit", func(*plan) {}, 2},
		{"the old one after a failure", at(stepNewLoaded, "kill"), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			udp := packets("packet", "udp", "127.0.0.1:0")
			first := start(t, web(udp, at(stepOldFrozen, "hold")))
			client := dialPacket(t, "udp", first.do("address", "web"))
			first.plans(web(udp, c.child))
			done := first.begin("split")
			first.await("held")
			for i := range datagrams {
				client.sayDatagram(strconv.Itoa(i))
			}
			first.do("release", stepOldFrozen)
			first.answer(done)
			for i := range datagrams {
				a := client.hearDatagram()
				require.Equal(t, strconv.Itoa(i), a.Line)
				require.Equal(t, c.owner, a.Generation)
			}
		})
	}
}

func TestThePacketSocketThatNobodyAsksForIsUnlinkedAtTheCommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(temporary(t), "socket")
	first := start(t, web(packets("packet", "unixgram", path)))
	first.plans(plan{})
	first.split()
	assert.NoFileExists(t, path)
	first.awaitLog("nobody asked for it", `"type":"packet"`)
}

func TestTheLastOwnerUnlinksAUnixgramSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(temporary(t), "socket")
	first := start(t, web(packets("packet", "unixgram", path)))
	second := first.split()
	first.awaitEnd()
	assert.FileExists(t, path)
	second.do("close", "web")
	assert.ErrorIs(t, second.await("receive ended").Error, net.ErrClosed)
	assert.NoFileExists(t, path)
}

func TestAPacketSocketCanAnswerAfterTheCommit(t *testing.T) {
	t.Parallel()
	udp := packets("packet", "udp", "127.0.0.1:0")
	first := start(t, web(udp, func(p *plan) { p.Stay = true }))
	address := first.do("address", "web")
	client := dialPacket(t, "udp", address)
	client.askDatagram("a")
	first.plans(web(udp))
	first.split()
	first.do("send", "web", client.conn.LocalAddr().String(), "late 1 1 1")
	late := client.hearDatagram()
	assert.Equal(t, "late", late.Line)
	assert.Equal(t, address, client.conn.RemoteAddr().String())
}

func init() {
	functions["send"] = func(a *application, args []string) (string, error) {
		to, err := net.ResolveUDPAddr("udp", args[1])
		if err != nil {
			return "", err
		}
		_, err = a.socket(args[0]).(net.PacketConn).WriteTo([]byte(args[2]), to)
		return "", err
	}
}
