//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"
)

// newcomer returns somebody who has joined.
func (p *process) newcomer(room, name string, slow bool) *person {
	p.t.Helper()
	somebody, err := join(p.address, room, name, slow)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { somebody.Close() })
	return somebody
}

// newRaw returns somebody who has said nothing yet.
func (p *process) newRaw() *person {
	p.t.Helper()
	somebody, err := dial(p.address, false)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { somebody.Close() })
	return somebody
}

// A talker says numbered texts, the next one when it has heard the one before, and checks that it hears those of
// everybody in the room once and in order.
type talker struct {
	*person
	name    string
	kind    int            // in how many pieces it sends
	mates   int            // how many are in the room
	numbers map[string]int // of the next text, by name
	ended   int            // how many have said that they are at the end
}

func (k *talker) talk(ending *atomic.Bool, heard *atomic.Int64) error {
	if err := k.sayNext(false); err != nil {
		return err
	}
	for k.ended < k.mates {
		opcode, text, err := k.next()
		if err != nil {
			return fmt.Errorf("%s after %v: %w", k.name, k.numbers, err)
		}
		if opcode == ws.OpPong || strings.HasPrefix(text, "* ") {
			continue
		}
		name, said, _ := strings.Cut(text, " ")
		switch n := k.numbers[name]; said {
		case textOf(n):
			k.numbers[name]++
			heard.Add(1)
		case "end " + strconv.Itoa(n):
			k.ended++
			continue
		default:
			return fmt.Errorf("%s hears %.40q where text %d of %s was expected", k.name, said, n, name)
		}
		if name == k.name {
			if err := k.sayNext(ending.Load()); err != nil {
				return err
			}
		}
	}
	return nil
}

// textOf returns a text of a length of its own.
func textOf(n int) string { return strconv.Itoa(n) + strings.Repeat("ä€ ", n*7%90) }

// sayNext sends the next text: in one frame, in two writes, or in two frames with a ping in between.
func (k *talker) sayNext(last bool) error {
	n := k.numbers[k.name]
	text := textOf(n)
	if last {
		text = "end " + strconv.Itoa(n)
	}
	half := len(text) / 2
	switch (k.kind + n) % 3 {
	case 0:
		return k.say(text)
	case 1:
		b := frame(ws.OpText, true, []byte(text))
		half = 1 + n%(len(b)-1)
		if _, err := k.Write(b[:half]); err != nil {
			return err
		}
		_, err := k.Write(b[half:])
		return err
	}
	if err := k.send(ws.OpText, false, text[:half]); err != nil {
		return err
	}
	if err := k.send(ws.OpPing, true, "?"); err != nil {
		return err
	}
	return k.send(ws.OpContinuation, true, text[half:])
}

// visit joins, talks and leaves.
func visit(address string, n int) error {
	name := "v" + strconv.Itoa(n)
	v, err := join(address, "visitors"+strconv.Itoa(n), name, false)
	if err != nil {
		return err
	}
	defer v.Close()
	if err := v.say("hello"); err != nil {
		return err
	}
	if err := v.hears(name + " hello"); err != nil {
		return err
	}
	return v.leave()
}

// ask asks for the status on a connection that stays open, which is never dialled anew.
func ask(c net.Conn, in *bufio.Reader) (status, error) {
	var got status
	if _, err := io.WriteString(c, "GET /status HTTP/1.1\r\nHost: chat\r\n\r\n"); err != nil {
		return got, err
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return got, err
	}
	return got, json.NewDecoder(response.Body).Decode(&got)
}

func TestFiftyClientsHearEveryMessageOnceAndInOrderThroughTenRestarts(t *testing.T) {
	t.Parallel()
	const restarts, clients, perRoom = 10, 50, 10
	p := startProcess(t)
	var talkers []*talker
	for i := range clients {
		name := "c" + strconv.Itoa(i)
		somebody := p.newcomer("room"+strconv.Itoa(i/perRoom), name, false)
		talkers = append(talkers, &talker{person: somebody, name: name, kind: i, mates: perRoom, numbers: map[string]int{}})
	}
	var ending atomic.Bool
	var heard, visits, answers atomic.Int64
	var running sync.WaitGroup
	failures := make(chan error, clients+3)
	for _, k := range talkers {
		running.Go(func() {
			if err := k.talk(&ending, &heard); err != nil {
				failures <- err
			}
		})
	}
	address := p.address // of all generations
	for i := range 2 {
		running.Go(func() {
			for n := i; !ending.Load(); n += 2 {
				if err := visit(address, n); err != nil {
					failures <- fmt.Errorf("visitor %d: %w", n, err)
					return
				}
				visits.Add(1)
			}
		})
	}
	running.Go(func() {
		c, err := net.Dial("tcp", address)
		if err != nil {
			failures <- err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * patience))
		for in := bufio.NewReader(c); !ending.Load(); answers.Add(1) {
			if _, err := ask(c, in); err != nil {
				failures <- fmt.Errorf("status: %w", err)
				return
			}
		}
	})
	began := time.Now()
	for range restarts {
		before, visitsBefore, answersBefore := heard.Load(), visits.Load(), answers.Load()
		p.restart()
		p.reapNext()
		require.Eventually(t, func() bool {
			return heard.Load() > before+clients && visits.Load() > visitsBefore && answers.Load() > answersBefore || len(failures) > 0
		}, patience, time.Millisecond)
	}
	took := time.Since(began)
	ending.Store(true)
	running.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
	for _, k := range talkers {
		for name, n := range k.numbers {
			require.Positive(t, n, "%s has heard nothing of %s", k.name, name)
		}
		require.Len(t, k.numbers, perRoom)
	}
	t.Logf("%d messages heard, %d visitors and %d answers in %v with %d restarts", heard.Load(), visits.Load(), answers.Load(), took, restarts)
	for _, k := range talkers {
		require.NoError(t, k.leave())
	}
	p.stop()
}

func TestWhatIsSentMayBeCutAtEveryByteByARestart(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	// From the first byte of the request on. What it says is a text, a text of two frames with a ping in between, a text
	// with a long length, and the end.
	conversation := request("x", "anna")
	var said []byte
	for _, f := range [][]byte{
		frame(ws.OpText, true, []byte("whole")),
		frame(ws.OpText, false, []byte("in €")[:4]),
		frame(ws.OpPing, true, []byte("?")),
		frame(ws.OpContinuation, true, []byte("in €")[4:]),
		frame(ws.OpText, true, []byte(strings.Repeat("l", 126))),
	} {
		said = append(said, f...)
	}
	handshake := len(conversation)
	lengthOf := func(i int) int { return len(request("x"+strconv.Itoa(i), "anna")) }
	total := handshake + len(said)
	var people []*person
	streams := make([]string, total+1)
	for i := range total + 1 {
		streams[i] = request("x"+strconv.Itoa(i), "anna") + string(said)
		somebody := p.newRaw()
		_, err := io.WriteString(somebody, streams[i][:i])
		require.NoError(t, err)
		if i >= lengthOf(i) { // else there is no answer yet
			require.NoError(t, somebody.enter("anna"))
		}
		people = append(people, somebody)
	}
	p.restart()
	for i, somebody := range people { // one byte more in the second generation
		next := min(i+1, len(streams[i]))
		_, err := io.WriteString(somebody, streams[i][i:next])
		require.NoError(t, err)
	}
	p.restart()
	for i, somebody := range people {
		_, err := io.WriteString(somebody, streams[i][min(i+1, len(streams[i])):])
		require.NoError(t, err)
		if i < lengthOf(i) {
			require.NoError(t, somebody.enter("anna"), "cut at %d", i)
		}
		require.NoError(t, somebody.hears("anna whole"), "cut at %d", i)
		require.NoError(t, somebody.hearsPong("?"), "cut at %d", i)
		require.NoError(t, somebody.hears("anna in €", "anna "+strings.Repeat("l", 126)), "cut at %d", i)
		require.NoError(t, somebody.ping("!"), "cut at %d", i)
		require.NoError(t, somebody.leave(), "cut at %d", i)
	}
	p.reapNext()
	p.reapNext()
	p.stop()
}

func TestALongMessageThatIsHalfReceivedAndWhatASlowReaderHasNotTakenSurvive(t *testing.T) {
	t.Parallel()
	const restarts = 4
	p := startProcess(t)
	slow := p.newcomer("attic", "slow", true)
	anna := p.newcomer("attic", "anna", false)
	require.NoError(t, slow.hears("* anna has joined"))
	var texts []string
	for i := range restarts {
		text := strings.Repeat(string(rune('a'+i)), 1<<20)
		texts = append(texts, "anna "+text)
		require.NoError(t, anna.send(ws.OpText, false, text[:300<<10]))
		require.NoError(t, anna.ping("after the first frame"))
		rest := frame(ws.OpContinuation, true, []byte(text[300<<10:]))
		_, err := anna.Write(rest[:400<<10])
		require.NoError(t, err)
		p.restart()
		_, err = anna.Write(rest[400<<10:])
		require.NoError(t, err)
		require.NoError(t, anna.hears(texts[i]))
		require.NoError(t, anna.ping("generation "+strconv.Itoa(i+2)))
		p.reapNext()
	}
	require.NoError(t, slow.hears(texts...))
	require.NoError(t, slow.ping("still here"))
	require.NoError(t, slow.leave())
	require.NoError(t, anna.hears("* slow has left"))
	require.NoError(t, anna.leave())
	p.stop()
}

func TestClientsThatCloseDuringARestartLeaveOnce(t *testing.T) {
	t.Parallel()
	const leavers = 30
	p := startProcess(t)
	watcher := p.newcomer("hall", "watcher", false)
	var people []*person
	for i := range leavers {
		people = append(people, p.newcomer("hall", "p"+strconv.Itoa(i), false))
	}
	for i := range leavers {
		require.NoError(t, watcher.hears("* p"+strconv.Itoa(i)+" has joined"))
	}
	var leaving sync.WaitGroup
	failures := make(chan error, leavers)
	began := make(chan struct{})
	for i, somebody := range people {
		leaving.Go(func() {
			<-began
			time.Sleep(time.Duration(i) * 5 * time.Millisecond) // spread over the restart; nothing depends on it
			switch i % 3 {
			case 0:
				failures <- somebody.leave()
			case 1: // the connection ends without a close frame
				failures <- somebody.Close()
			case 2: // it breaks
				somebody.SetLinger(0)
				failures <- somebody.Close()
			}
		})
	}
	p.signal(syscall.SIGHUP)
	close(began)
	p.awaitGeneration(2)
	leaving.Wait()
	for range leavers {
		require.NoError(t, <-failures)
	}
	left := map[string]bool{}
	for range leavers {
		text, err := watcher.hear()
		require.NoError(t, err)
		require.Regexp(t, `^\* p\d+ has left$`, text)
		require.False(t, left[text], "%q twice", text)
		left[text] = true
	}
	p.reapNext()
	require.NoError(t, watcher.ping("the last one"))
	c := p.newRaw()
	require.Eventually(t, func() bool {
		got, err := ask(c, c.in)
		require.NoError(t, err)
		return got.Clients == 1
	}, patience, time.Millisecond)
	require.NoError(t, c.Close())
	require.NoError(t, watcher.leave())
	p.stop()
}

func TestTheEndIsToldToEveryClient(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	var people []*person
	for i := range 20 {
		people = append(people, p.newcomer("hall", "p"+strconv.Itoa(i), false))
	}
	p.restart()
	p.reapNext()
	require.NoError(t, people[0].send(ws.OpText, false, "half a message"))
	p.signal(syscall.SIGTERM)
	for _, somebody := range people {
		require.NoError(t, somebody.hearsClose(ws.NewCloseFrameBody(ws.StatusGoingAway, "the server stops")))
	}
	p.awaitEnd()
}
