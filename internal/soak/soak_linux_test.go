package soak

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bhuthesh/mitosis/internal/orphans"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	duration = flag.Duration("soak", 4*time.Second, "how long to soak")
	seed     = flag.Uint64("soak.seed", 0, "of all random choices; 0 means a new one")
)

// growth returns how much more memory the last generation may have than one of the
// first, in KiB. The race detector gives none of its own back.
func growth() int {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 100 << 10
	}
	return 30 << 10
}

// firstSplits come before the first inventory.
const firstSplits = 4

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(planVariable); ok {
		if err := runService(text); err != nil {
			fmt.Printf("failed %d %q\n", os.Getpid(), err)
			os.Exit(1)
		}
		fmt.Printf("ended %d\n", os.Getpid())
		os.Exit(0)
	}
	flag.Parse()
	limit := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration)
	if least := *duration + 5*time.Minute; limit > 0 && limit < least {
		flag.Set("test.timeout", least.String()) // the go command has a later limit of its own
	}
	orphans.Adopt()
	os.Exit(m.Run())
}

// soak is the whole test.
type soak struct {
	plan
	seed       uint64
	streams    atomic.Uint64 // of random numbers
	chain      *chain
	chat       string
	control    *webClient
	questioner *questioner
	random     *rand.Rand // of the splits
	lastSplit  time.Duration
	figures    figures

	pace    sync.RWMutex // held for reading by everybody who expects an answer
	working sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex
	failure string
	conns   []net.Conn
}

// figures are what has been done.
type figures struct {
	requests, visits, lines, answers, questions, datagrams, bulk atomic.Uint64

	tooLate, again int
	faults         map[string]int
}

func TestSoak(t *testing.T) {
	s := &soak{plan: plan{Dir: t.TempDir()}, seed: *seed, figures: figures{faults: map[string]int{}}}
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("-soak=%v -soak.seed=%d", *duration, s.seed)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.random = s.newRandom()
	require.NoError(t, os.WriteFile(s.plain(), []byte("no program"), 0o600))
	s.questioner = s.startQuestioner()
	defer s.questioner.listener.Close()
	s.Lines = s.questioner.listener.Addr().String()
	s.chain = startChain(t, s.plan, s.fail)
	watchdog := time.AfterFunc(*duration+4*bound, func() { s.fail("the soak does not come to its end") })
	defer watchdog.Stop()
	s.run(t)
	s.cancel()
	s.working.Wait()
	if s.failed() {
		t.Fatalf("%s\n\n-soak.seed=%d; %s\n\nthe service said last:\n%s", s.failure, s.seed, s.report(), s.chain.tail())
	}
	s.stopService(t)
	t.Log(s.report())
}

// fail ends the soak. The first failure is the one that is told.
func (s *soak) fail(format string, values ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != "" {
		return
	}
	s.failure = fmt.Sprintf(format, values...)
	s.cancel()
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *soak) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure != ""
}

func (s *soak) newRandom() *rand.Rand { return rand.New(rand.NewPCG(s.seed, s.streams.Add(1))) }

// run is the soak, without its end.
func (s *soak) run(t *testing.T) {
	if !s.startClients() {
		return
	}
	for range firstSplits {
		s.pause(100*time.Millisecond, 500*time.Millisecond)
		s.splitWith("")
	}
	first, ok := s.takeInventory(nil)
	if !ok {
		return
	}
	t.Logf("first: %s", first.summary())
	s.order(order{}) // a generation that is patient with those that come after it
	var deck []string
	for end := time.Now().Add(*duration); time.Now().Before(end) && s.ctx.Err() == nil; {
		if len(deck) == 0 {
			deck = s.newDeck()
		}
		s.pause(100*time.Millisecond, 500*time.Millisecond)
		s.splitWith(deck[0])
		deck = deck[1:]
	}
	last, ok := s.takeInventory(first)
	if !ok {
		return
	}
	t.Logf("last:  %s", last.summary())
	assert.LessOrEqual(t, last.RSS, first.RSS+growth(), "resident memory in KiB")
	assert.Equal(t, first.Environment, last.Environment, "environment")
	assert.Equal(t, []string{"journal", "not-executable", "pid", "web.sock"}, s.files(t))
	assert.Equal(t, fmt.Sprintln(last.Pid), s.read(t, s.pidFile()))
	var journal strings.Builder
	for n := range last.Generation {
		fmt.Fprintln(&journal, n+1)
	}
	assert.Equal(t, journal.String(), s.read(t, s.journal()), "what the generations wrote in their journal")
}

// stopService stops the service, and finds out what it leaves.
func (s *soak) stopService(t *testing.T) {
	s.control.conn.Close()
	s.chain.signal(syscall.SIGTERM, 1)
	s.chain.await("the end of the service", func() bool { return s.chain.ended })
	if s.failed() || len(s.chain.unfinished) > 0 {
		t.Fatalf("%s; these have not ended: %v\n%s", s.failure, s.chain.unfinished, s.chain.tail())
	}
	assert.Equal(t, []string{"journal", "not-executable"}, s.files(t))
	if !eventually(func() bool { s.chain.reap(); return len(descendants()) == 0 }) {
		t.Errorf("processes are left: %v", descendants())
	}
}

func (s *soak) files(t *testing.T) (names []string) {
	entries, err := os.ReadDir(s.Dir)
	assert.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *soak) read(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	assert.NoError(t, err)
	return string(b)
}

// pause lets some time pass: the length of the load, nothing depends on it.
func (s *soak) pause(least, most time.Duration) {
	select {
	case <-time.After(least + time.Duration(s.random.Int64N(int64(most-least)))):
	case <-s.ctx.Done():
	}
}

// newDeck returns each fault once, and as many splits without one.
func (s *soak) newDeck() []string {
	deck := append(slices.Sorted(maps.Keys(failures)), oneSignal, twoSignals, signalDuring)
	deck = append(deck, make([]string, len(deck))...)
	s.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// splitWith splits, in the way that the name of the fault says.
func (s *soak) splitWith(fault string) {
	if s.ctx.Err() != nil {
		return
	}
	if fault != "" {
		s.figures.faults[fault]++
	}
	switch fault {
	case oneSignal, twoSignals:
		times := 1
		if fault == twoSignals {
			times = 2
		}
		s.awaitGeneration(s.chain.signal(syscall.SIGHUP, times) + 1)
	case signalDuring:
		s.signalDuringSplit()
	case hangs:
		s.order(order{Patience: s.shortPatience()})
		s.order(order{Fault: hangs})
		s.order(order{})
	default:
		after := time.Duration(s.random.Int64N(int64(s.lastSplit + s.lastSplit/10 + 1)))
		s.order(order{Fault: fault, After: after})
	}
}

// shortPatience is enough for a new process that does not hang.
func (s *soak) shortPatience() time.Duration { return max(time.Second, 5*s.lastSplit) }

// signalDuringSplit sends a signal when a split has begun.
func (s *soak) signalDuringSplit() {
	_, _, before := s.chain.present()
	ordered := make(chan struct{})
	go func() {
		defer close(ordered)
		s.order(order{})
	}()
	s.chain.await("a new process", func() bool { return s.chain.born > before })
	generation := s.chain.signal(syscall.SIGHUP, 1)
	<-ordered
	s.awaitGeneration(generation + 1)
}

func (s *soak) awaitGeneration(n int) {
	s.chain.await(fmt.Sprintf("generation %d", n), func() bool { return s.chain.newest >= n })
}

// order orders a split, until it has come to what it should.
func (s *soak) order(o order) {
	if o.Size == 0 && s.random.IntN(8) > 0 {
		o.Size = s.random.IntN(8 << 20)
	}
	for s.ctx.Err() == nil {
		began := time.Now()
		var result outcome
		if err := s.control.order("/split", o, &result); err != nil {
			s.fail("order %+v: %v", o, err)
			return
		}
		expected, fails := failures[o.Fault]
		switch {
		case strings.Contains(result.Error, "already splitting"), strings.Contains(result.Error, "superseded"):
			s.figures.again++ // a signal came first
			continue
		case result.Error == patient:
			s.order(order{Patience: s.shortPatience()})
			continue
		case result.Error == "" && (!fails || mayComeTooLate[o.Fault]):
			if fails {
				s.figures.tooLate++
			}
			s.lastSplit = time.Since(began)
			s.figures.bulk.Add(uint64(o.Size))
			s.awaitGeneration(result.Generation + 1)
			return
		case fails && strings.Contains(result.Error, expected):
			return
		case strings.Contains(result.Error, failures[hangs]):
			continue // its patience was only meant for one that hangs
		}
		s.fail("order %+v: process %d of generation %d says %q", o, result.Pid, result.Generation, result.Error)
	}
}

// takeInventory lets everything come to rest, and looks what a new generation has,
// whose splits fail then in all ways: that has to be no more than before.
func (s *soak) takeInventory(before *inventory) (now *inventory, ok bool) {
	s.pace.Lock()
	defer s.pace.Unlock()
	const size = 1 << 20
	s.order(order{Size: size, Patience: s.shortPatience()})
	if before != nil {
		for _, fault := range slices.Sorted(maps.Keys(failures)) {
			s.order(order{Fault: fault, Size: size, After: time.Millisecond})
		}
	}
	var left map[int]string
	if !eventually(func() bool {
		s.chain.reap()
		_, pid, _ := s.chain.present()
		left = descendants()
		return s.failed() || len(left) == 1 && left[pid] != "" && left[pid] != "Z"
	}) {
		s.fail("more than the newest process is left: %v", left)
	}
	ok = eventually(func() bool {
		now = &inventory{}
		if err := s.control.order("/inventory", nil, now); err != nil {
			s.fail("inventory: %v", err)
		}
		return s.failed() || !now.Hearing && (before == nil ||
			slices.Equal(before.Descriptors, now.Descriptors) && now.Goroutines <= before.Goroutines)
	})
	switch {
	case s.failed():
		return now, false
	case !ok:
		s.fail("something is left: %d descriptors, %d goroutines\n%q\n%s\nbefore: %+v", len(now.Descriptors), now.Goroutines,
			now.Descriptors, now.Stacks, before)
	case now.Peers != chatters+slowChatters, now.Lines != s.figures.lines.Load(), now.Questions != s.figures.questions.Load():
		s.fail("%s; but there are %d peers, who have said %d lines and asked %d questions",
			now.summary(), chatters+slowChatters, s.figures.lines.Load(), s.figures.questions.Load())
		return now, false
	}
	return now, ok
}

func (i *inventory) summary() string {
	return fmt.Sprintf("generation %d, RSS %d KiB, %d descriptors, %d goroutines, %d peers, %d lines, %d questions",
		i.Generation, i.RSS, len(i.Descriptors), i.Goroutines, i.Peers, i.Lines, i.Questions)
}

// eventually looks until ok, within the bound.
func eventually(ok func() bool) bool {
	for deadline := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func (s *soak) report() string {
	f := &s.figures
	generation, _, born := s.chain.present()
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(f.faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", name, f.faults[name]))
	}
	return fmt.Sprintf("%d splits, %d processes; %s (%d of them came too late, %d orders had to wait for a signal); "+
		"%d requests on %d connections, %d connections that came and went, %d lines with %d answers, %d questions, %d datagrams, %d MiB of state",
		generation-1, born, strings.Join(faults, ", "), f.tooLate, f.again, f.requests.Load(), s.webConnections(), f.visits.Load(),
		f.lines.Load(), f.answers.Load(), f.questions.Load(), f.datagrams.Load(), f.bulk.Load()>>20)
}
