package mitosis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faultTraffic is what goes on at the service during a fault: rounds of questions
// and answers, until it is told to rest. All answers go into the ledger. Another
// kind of traffic (HTTP on connections that are kept alive, say) is another round,
// and a place in faultService.traffic.
type faultTraffic struct {
	name  string
	round func() error

	mu      sync.Mutex
	changed sync.Cond
	running bool
	busy    bool
	over    bool
	done    int   // rounds
	ended   error // it cannot go on
}

// faultPace is between two rounds; it bounds the traffic.
const faultPace = 3 * time.Millisecond

func startFaultTraffic(name string, round func() error) *faultTraffic {
	f := &faultTraffic{name: name, round: round}
	f.changed.L = &f.mu
	go f.run()
	return f
}

func (f *faultTraffic) run() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for !f.over && (!f.running || f.ended != nil) {
			f.changed.Wait()
		}
		if f.over {
			return
		}
		f.busy = true
		f.mu.Unlock()
		err := f.round()
		f.mu.Lock()
		f.busy = false
		f.done++
		f.ended = err
		f.changed.Broadcast()
		f.mu.Unlock()
		time.Sleep(faultPace)
		f.mu.Lock()
	}
}

func (f *faultTraffic) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = true
	f.changed.Broadcast()
}

func (f *faultTraffic) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.changed.Broadcast()
}

// await waits until done says so, with the lock held.
func (f *faultTraffic) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	expired := false
	timer := time.AfterFunc(bound, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		expired = true
		f.changed.Broadcast()
	})
	defer timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !done() && !expired {
		f.changed.Wait()
	}
	require.False(t, expired, "%s: waited in vain for %s", f.name, what)
}

// rest waits until nothing is under way any more.
func (f *faultTraffic) rest(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	f.running = false
	f.mu.Unlock()
	f.await(t, "the last answer", func() bool { return !f.busy })
}

// flows waits for a round that begins after the call.
func (f *faultTraffic) flows(t testing.TB) {
	t.Helper()
	f.goOn()
	f.mu.Lock()
	from := f.done
	if f.busy {
		from++
	}
	f.mu.Unlock()
	var ended error
	f.await(t, "answers", func() bool {
		ended = f.ended
		return f.done > from || ended != nil
	})
	require.NoError(t, ended, f.name)
}

// ends waits for the end of the connection.
func (f *faultTraffic) ends(t testing.TB) {
	t.Helper()
	f.goOn()
	f.await(t, "the end", func() bool { return f.ended != nil })
}

// faultLedger is all answers since the last balance.
type faultLedger struct {
	mu     sync.Mutex
	list   []faultEntry
	failed []error // of visitors
	last   int     // the count of requests at the last balance
}

type faultEntry struct {
	answer
	live bool // it came on a live connection
}

func (l *faultLedger) add(a answer, live bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, faultEntry{a, live})
}

// take returns the counts of requests that a process has answered since the last
// balance, and the highest of them on a live connection.
func (l *faultLedger) take(pid int) (counts []int, live int) {
	for _, e := range l.list {
		if e.Pid == pid {
			counts = append(counts, e.Requests)
			if e.live {
				live = max(live, e.Requests)
			}
		}
	}
	slices.Sort(counts)
	return counts, live
}

// consecutive asserts that there is one of each.
func consecutive(t testing.TB, counts []int, first int, whose string) {
	t.Helper()
	for i, n := range counts {
		require.Equal(t, first+i, n, "%s: a count is missing or was given twice: %v", whose, counts)
	}
}

// balanceOf asserts that one process has answered everything, once.
func (l *faultLedger) balanceOf(t testing.TB, p *generation) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.failed)
	counts, _ := l.take(p.pid)
	require.Len(t, counts, len(l.list), "somebody else has answered")
	consecutive(t, counts, l.last+1, "the old process")
	l.last += len(counts)
	l.list = nil
}

// balance asserts that the new process went on where the old one stood at the cut,
// on what moved, while that has only drained what it had accepted.
func (l *faultLedger) balance(t testing.TB, old, next *generation, c faultCase) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	before, live := l.take(old.pid)
	after, _ := l.take(next.pid)
	require.Len(t, l.list, len(before)+len(after), "somebody else has answered")
	require.NotEmpty(t, after)
	lost := 0 // answers of a dead process
	killed := c.effect == deadly
	if killed {
		require.Len(t, slices.Compact(slices.Clone(before)), len(before), "a count was given twice: %v", before)
		lost = len(l.failed)
		if !c.connsArrived() {
			lost += faultLives * faultRound
		}
	} else {
		require.Empty(t, l.failed)
		consecutive(t, before, l.last+1, "the old process")
	}
	cut := 0
	if c.stateArrived() {
		cut = after[0] - 1
		require.GreaterOrEqual(t, cut, live, "the new process's counts begin before the last of the old one")
		require.GreaterOrEqual(t, cut, l.last)
		require.LessOrEqual(t, cut, max(l.last, slices.Max(append(before, 0)))+lost)
	}
	consecutive(t, after, cut+1, "the new process")
	l.last = cut + len(after)
	l.list, l.failed = nil, nil
}

// faultLives is how many live connections there are, and faultRound how many lines
// are under way on each.
const (
	faultLives = 2
	faultRound = 3
)

// startLive speaks on the peer's end of a live connection.
func (l *faultLedger) startLive(name string, c net.Conn) *faultTraffic {
	in := bufio.NewReader(c)
	asked := 0
	return startFaultTraffic(name, func() error {
		var lines strings.Builder
		for i := range faultRound {
			fmt.Fprintln(&lines, asked+i)
		}
		c.SetDeadline(time.Now().Add(bound))
		for _, part := range []string{lines.String()[:lines.Len()/2], lines.String()[lines.Len()/2:]} {
			if _, err := io.WriteString(c, part); err != nil {
				return err
			}
		}
		for range faultRound {
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			a, err := parseAnswer(line)
			if err == nil && a.Line != fmt.Sprint(asked) {
				err = fmt.Errorf("%q is the answer to %d", line, asked)
			}
			if err != nil {
				l.add(answer{Line: err.Error()}, true) // nobody's: no balance is right with it
				return err
			}
			l.add(a, true)
			asked++
		}
		return nil
	})
}

func parseAnswer(line string) (a answer, err error) {
	_, err = fmt.Sscan(line, &a.Line, &a.Generation, &a.Pid, &a.Requests)
	return a, err
}

// startVisitors comes again and again, asks one question and goes.
func (l *faultLedger) startVisitors(address string) *faultTraffic {
	visit := func() error {
		c, err := net.DialTimeout("tcp", address, bound)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(bound))
		if _, err := io.WriteString(c, "visitor\n"); err != nil {
			return err
		}
		in := bufio.NewReader(c)
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		a, err := parseAnswer(line)
		if err != nil {
			return err
		}
		l.add(a, false)
		c.(*net.TCPConn).CloseWrite()
		if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("after the answer came %v", err)
		}
		return nil
	}
	return startFaultTraffic("visitors", func() error {
		if err := visit(); err != nil {
			l.mu.Lock()
			l.failed = append(l.failed, err)
			l.mu.Unlock()
		}
		time.Sleep(2 * faultPace)
		return nil
	})
}

// hasDied asserts that a connection ended with the process that had accepted it.
func (c *client) hasDied() {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(bound))
	_, err := c.in.ReadByte()
	require.Error(c.t, err)
	assert.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
}
