//go:build unix

package mitosis

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// What a new process does that wants to harm the old one; see fates, too.
func init() {
	joining := func() wire.Frame {
		return message(wire.Join, wire.Joining{Version: wire.MaxVersion, Pid: os.Getpid()})
	}
	fates["announce 4 GiB"] = hostile(func(conn *net.UnixConn) {
		conn.Write([]byte{byte(wire.Join), 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	})
	fates["send descriptors without end"] = hostile(func(conn *net.UnixConn) {
		conn.Write([]byte{byte(wire.Join), 0, 0, wire.MaxDescriptors, 0, 0x10, 0, 0})
		for {
			if _, _, err := conn.WriteMsgUnix([]byte{' '}, unix.UnixRights(make([]int, wire.MaxDescriptors)...), nil); err != nil {
				return
			}
		}
	})
	fates["send what may be skipped without end"] = func(a *application) {
		frame := wire.Frame{Kind: wire.Optional | 0x7e, Payload: bytes.Repeat([]byte{'x'}, wire.MaxPayload), Descriptors: make([]int, wire.MaxDescriptors)}
		rogue(func(link *wire.Link) {
			for n := 0; link.Send(frame) == nil; n++ {
				if n == 10 {
					a.report("flooding", "", nil)
				}
			}
		})(a)
	}
	fates["send JOIN without end"] = rogue(func(link *wire.Link) {
		for link.Send(joining()) == nil {
		}
	})
	fates["acknowledge everything at once"] = rogue(func(link *wire.Link) {
		link.Send(joining(), message(wire.Want, wire.Wanting{}), wire.Frame{Kind: wire.Ready}, wire.Frame{Kind: wire.Ack})
	})
	fates["forward a connection upward"] = rogue(func(link *wire.Link) {
		records := wire.AppendConns(nil, []wire.ConnRecord{{Name: "web"}})
		link.Send(joining(), wire.Frame{Kind: wire.Forward, Payload: records, Descriptors: []int{0}})
	})
	fates["send a connection upward"] = rogue(func(link *wire.Link) {
		records := wire.AppendConns(nil, []wire.ConnRecord{{Name: "web"}})
		link.Send(joining(), wire.Frame{Kind: wire.Conns, Payload: records, Descriptors: []int{0}})
	})
	fates["tell the old process to stop"] = rogue(func(link *wire.Link) {
		link.Send(joining(), message(wire.Signal, wire.Notice{Stop: true}))
	})
	fates["want the same state without end"] = rogue(func(link *wire.Link) {
		names := strings.Split(strings.Repeat("requests,", 90_000), ",")
		link.Send(joining(), message(wire.Want, wire.Wanting{States: names}), wire.Frame{Kind: wire.Ack})
	})
	fates["refuse at length"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Refuse, wire.Refusal{Reason: strings.Repeat("no\n", 200_000)}))
	})
}

// hostile is a process that does not keep to the form of frames, and then hangs.
func hostile(act func(*net.UnixConn)) func(*application) {
	return func(*application) {
		conn, err := sys.UnixConn(inherited.link)
		if err != nil {
			panic(err)
		}
		act(conn)
		select {}
	}
}

func TestAHostileNewProcessHarmsNobody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fate string
		err  error
		text string
	}{
		{"announce 4 GiB", ErrProtocol, "4294967295"},
		{"send descriptors without end", ErrProtocol, "descriptors for frames that are not whole yet"},
		{"send JOIN without end", ErrProtocol, "JOIN where WANT was expected"},
		{"acknowledge everything at once", ErrProtocol, "a commit that it has not taken"},
		{"forward a connection upward", ErrProtocol, "FORWARD where WANT was expected"},
		{"send a connection upward", ErrProtocol, "CONNS where WANT was expected"},
		{"tell the old process to stop", ErrProtocol, "SIGNAL where WANT was expected"},
		{"want the same state without end", ErrProtocol, "ACK where READY was expected"},
		{"refuse at length", ErrRefused, "no\nno\n"},
	} {
		t.Run(c.fate, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			watcher := watch(first)
			first.plans(web(fate(c.fate)))
			err := first.failSplit()
			first.generation()
			assert.ErrorIs(t, err, c.err)
			assert.ErrorContains(t, err, c.text)
			watcher.unharmed()
		})
	}
}

func TestANewProcessThatNeverStopsSendingKeepsNobodyFromServingAndFromGivingItUp(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	watcher := watch(first)
	first.plans(web(fate("send what may be skipped without end")))
	done := first.begin("split")
	first.generation().await("flooding")
	watcher.old.ask("meanwhile")
	first.do("cancel")
	_, err := first.answer(done)
	assert.ErrorIs(t, err, errCancelled)
	first.hasOnly(watcher.before)
	watcher.succeeds()
}
