//go:build unix

package mitosis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	functions["dial"] = func(a *application, args []string) (string, error) {
		_, err := a.m.Dial(context.Background(), args[0], "tcp", args[1])
		return "", err
	}
	// Each line is answered as the service does.
	functions["answer"] = func(a *application, args []string) (string, error) {
		c, err := a.m.Conn(args[0])
		if err != nil {
			return "", err
		}
		go a.answer(c)
		return "", nil
	}
	// Lines are written that nobody has asked for, each counted and written under the
	// lock of the state.
	functions["talk"] = func(a *application, args []string) (string, error) {
		c, err := a.m.Conn(args[0])
		if err != nil {
			return "", err
		}
		go func() {
			lock := a.lock("requests")
			for {
				lock.Lock()
				a.requests++
				_, err := fmt.Fprintf(c, "tick %d %d %d\n", a.m.Generation(), os.Getpid(), a.requests)
				lock.Unlock()
				if err != nil {
					return
				}
				time.Sleep(200 * time.Microsecond) // a bound on the traffic
			}
		}()
		return "", nil
	}
	functions["close conn"] = func(a *application, args []string) (string, error) {
		c, err := a.m.Conn(args[0])
		if err != nil {
			return "", err
		}
		return "", c.Close()
	}
}

// answer answers the lines on a live connection.
func (a *application) answer(c *Conn) {
	for {
		line, err := c.Reader().ReadString('\n')
		if err == nil {
			_, err = io.WriteString(c, a.reply(strings.TrimSuffix(line, "\n")))
		}
		if err != nil {
			return
		}
	}
}

// dialBack lets the process dial, and returns the other end.
func (p *generation) dialBack(name string) net.Conn {
	p.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(p.t, err)
	defer ln.Close()
	p.do("dial", name, ln.Addr().String())
	peer, err := ln.Accept()
	require.NoError(p.t, err)
	p.t.Cleanup(func() { peer.Close() })
	return peer
}

// traffic is numbered lines on a connection, and their answers. Every answer is
// checked: none is missing, none comes twice, and the count of requests goes up by
// one with each.
type traffic struct {
	t    testing.TB
	conn net.Conn

	mu       sync.Mutex
	changed  *sync.Cond
	sent     int
	quiet    bool // nothing more is to be sent
	answers  []answer
	mistake  error // an answer that should not have come
	received error // how it ended
	ended    bool
}

// trafficWindow is how many lines are under way at most.
const trafficWindow = 64

// traffic keeps a connection of the process busy.
func (p *generation) traffic(name string) *traffic {
	p.t.Helper()
	w := &traffic{t: p.t, conn: p.dialBack(name)}
	w.changed = sync.NewCond(&w.mu)
	p.do("answer", name)
	go w.send()
	go w.receive()
	return w
}

func (w *traffic) send() {
	for {
		w.mu.Lock()
		for !w.quiet && !w.ended && w.sent >= len(w.answers)+trafficWindow {
			w.changed.Wait()
		}
		if w.quiet || w.ended {
			w.mu.Unlock()
			return
		}
		line := fmt.Sprintln(w.sent)
		w.sent++
		w.mu.Unlock()
		for _, part := range []string{line[:len(line)/2], line[len(line)/2:]} { // so that cuts hit half lines
			if _, err := io.WriteString(w.conn, part); err != nil {
				return
			}
		}
	}
}

func (w *traffic) receive() {
	in := bufio.NewReader(w.conn)
	for {
		line, err := in.ReadString('\n')
		w.mu.Lock()
		var got answer
		if err == nil {
			if _, scanErr := fmt.Sscan(line, &got.Line, &got.Generation, &got.Pid, &got.Requests); scanErr != nil ||
				got.Line != fmt.Sprint(len(w.answers)) || got.Requests != len(w.answers)+1 {
				w.mistake = fmt.Errorf("answer %d is %q", len(w.answers), line)
				err = w.mistake
			}
		}
		if err != nil {
			w.ended, w.received = true, err
		} else {
			w.answers = append(w.answers, got)
		}
		w.changed.Broadcast()
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await waits until done says so, with the lock held.
func (w *traffic) await(what string, done func() bool) {
	w.t.Helper()
	expired := false
	timer := time.AfterFunc(bound, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		expired = true
		w.changed.Broadcast()
	})
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !done() && w.mistake == nil && !expired {
		w.changed.Wait()
	}
	require.NoError(w.t, w.mistake)
	require.False(w.t, expired, "waited in vain for %s: %d of %d answers", what, len(w.answers), w.sent)
}

// flows waits for some more answers, and asserts that they come from the process.
func (w *traffic) flows(p *generation) {
	w.t.Helper()
	w.mu.Lock()
	from := len(w.answers) + trafficWindow // what was under way may be older
	w.mu.Unlock()
	w.await("answers", func() bool { return len(w.answers) >= from+100 || w.ended })
	w.mu.Lock()
	defer w.mu.Unlock()
	require.False(w.t, w.ended, "the connection has ended: %v", w.received)
	for _, a := range w.answers[from:] {
		require.Equal(w.t, p.pid, a.Pid)
	}
}

// isWhole ends the traffic and asserts that every line was answered.
func (w *traffic) isWhole() {
	w.t.Helper()
	w.mu.Lock()
	w.quiet = true
	w.changed.Broadcast()
	w.mu.Unlock()
	w.await("the last answer", func() bool { return len(w.answers) == w.sent || w.ended })
	require.Len(w.t, w.answers, w.sent)
}

// isDead waits for the connection's end.
func (w *traffic) isDead() {
	w.t.Helper()
	w.await("the end", func() bool { return w.ended })
}

func TestALiveConnectionStaysWithTheOldProcessWhenTheNewOneIsKilled(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	busy := first.traffic("conn")
	for _, step := range newSteps {
		if phaseOf[step] == "" {
			continue // it has taken over: see below
		}
		busy.flows(first)
		first.plans(web(at(step, "kill")))
		require.ErrorIs(t, first.failSplit(), ErrChildExited, step)
		first.generation()
		busy.flows(first)
	}
	first.plans(web())
	second := first.split()
	second.do("answer", "conn")
	busy.flows(second)
	busy.isWhole()
}

func TestALiveConnectionEndsWithTheNewProcessThatHasTakenItOver(t *testing.T) {
	t.Parallel()
	for _, step := range []string{stepNewAcked, stepNewSettled} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) { p.Stay = true }))
			busy := first.traffic("conn")
			busy.flows(first)
			first.plans(web(at(step, "kill")))
			_, err := first.try("split")
			first.generation().awaitEnd()
			if err != nil { // the old process saw the end first
				require.ErrorIs(t, err, ErrChildExited)
				busy.flows(first)
				busy.isWhole()
				return
			}
			busy.isDead()
			_, err = first.try("answer", "conn")
			require.ErrorIs(t, err, ErrSuperseded)
		})
	}
}

func TestALiveConnectionIsTheNewProcessesOnlyIfItHasEverythingWhenTheOldOneIsKilled(t *testing.T) {
	t.Parallel()
	survives := []string{stepOldCompleted, stepOldReady, stepOldCommitted, stepOldAcked}
	for _, step := range oldSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			busy := first.traffic("conn")
			busy.flows(first)
			first.plans(web())
			first.do("at", step, "kill")
			first.begin("split")
			first.awaitEnd()
			if step == stepOldStart {
				busy.isDead()
				return
			}
			second := first.generation()
			if step == stepOldSaving {
				busy.isDead()
				assert.ErrorIs(t, second.await("ready").Error, ErrTruncated)
				return
			}
			second.await("serving")
			_, err := second.try("answer", "conn")
			if !slices.Contains(survives, step) {
				busy.isDead()
				require.ErrorIs(t, err, ErrNotFound)
				return
			}
			require.NoError(t, err)
			busy.flows(second)
			third := second.split()
			third.do("answer", "conn")
			busy.flows(third)
			busy.isWhole()
		})
	}
}

// The old process holds descriptors of the connection and does not run.
func TestTheEndOfAConnectionIsSentAtOnceWhileTheOldProcessIsStopped(t *testing.T) {
	t.Parallel()
	first := start(t, web(at(stepOldAcked, "stop")))
	peer := first.dialBack("conn")
	first.plans(web())
	first.begin("split")
	first.await("stopped")
	second := first.generation()
	second.await("serving")
	second.do("close conn", "conn")
	peer.SetReadDeadline(time.Now().Add(bound))
	_, err := peer.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	first.signal(syscall.SIGCONT)
	first.awaitEnd()
}

func TestAConnectionGoesThroughProcessesThatDoNotAskForIt(t *testing.T) {
	t.Parallel()
	p := start(t, web())
	peer := p.dialBack("conn")
	for i := range 3 {
		_, err := fmt.Fprintln(peer, i)
		require.NoError(t, err)
		p = p.split()
	}
	p.do("answer", "conn")
	in := bufio.NewReader(peer)
	for i := range 3 {
		peer.SetReadDeadline(time.Now().Add(bound))
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%d 4 %d %d\n", i, p.pid, i+1), line)
	}
}

// Two connections, one that is asked and one that talks, share a counter. Each of
// its values is written exactly once, whoever it is that counts.
func TestStateAndConnectionsAreOneConsistentCut(t *testing.T) {
	t.Parallel()
	const splits = 50
	p := start(t, web())
	asked, talking := p.dialBack("asked"), p.dialBack("talking")

	var mu sync.Mutex
	var counts []int
	take := func(line string) (a answer, err error) {
		if _, err = fmt.Sscan(line, &a.Line, &a.Generation, &a.Pid, &a.Requests); err == nil {
			mu.Lock()
			counts = append(counts, a.Requests)
			mu.Unlock()
		}
		return a, err
	}
	ends := make(chan error, 2)
	stop := make(chan struct{})
	go func() {
		in := bufio.NewReader(asked)
		for i := 0; ; i++ {
			select {
			case <-stop:
				ends <- nil
				return
			default:
			}
			_, err := fmt.Fprintln(asked, i)
			var line string
			if err == nil {
				line, err = in.ReadString('\n')
			}
			var a answer
			if err == nil {
				a, err = take(line)
			}
			if err == nil && a.Line != fmt.Sprint(i) {
				err = fmt.Errorf("%q is the answer to %d", line, i)
			}
			if err != nil {
				ends <- err
				return
			}
		}
	}()
	go func() {
		in := bufio.NewReader(talking)
		for {
			line, err := in.ReadString('\n')
			if err == nil {
				_, err = take(line)
			}
			if errors.Is(err, io.EOF) {
				err = nil
			} else if err == nil {
				continue
			}
			ends <- err
			return
		}
	}()
	advances := func() {
		mu.Lock()
		from := len(counts)
		mu.Unlock()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(counts) > from+5
		}, bound, time.Millisecond)
	}
	p.do("answer", "asked")
	p.do("talk", "talking")
	for i := range splits {
		advances()
		if i%5 == 4 {
			p.plans(web(func(p *plan) { p.States[0].Load = "error" }))
			require.ErrorIs(t, p.failSplit(), ErrRefused)
			p.generation()
			p.plans(web())
			advances()
			continue
		}
		p = p.split()
		p.do("answer", "asked")
		p.do("talk", "talking")
	}
	advances()
	close(stop)
	require.NoError(t, <-ends)
	p.do("close conn", "talking")
	require.NoError(t, <-ends)
	for i, count := range slices.Sorted(slices.Values(counts)) {
		require.Equal(t, i+1, count, "a count is missing or was given twice")
	}
	t.Logf("%d counts over %d splits", len(counts), splits)
}
