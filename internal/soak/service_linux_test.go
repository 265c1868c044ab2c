package soak

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
)

const (
	planVariable  = "SOAK_PLAN"  // of the service, for all generations
	orderVariable = "SOAK_ORDER" // of a split, for the next generation
)

// plan says what the service is like.
type plan struct {
	Dir   string // for its files
	Lines string // the address of the line server
}

func (p plan) socket() string  { return filepath.Join(p.Dir, "web.sock") }
func (p plan) journal() string { return filepath.Join(p.Dir, "journal") }
func (p plan) pidFile() string { return filepath.Join(p.Dir, "pid") }
func (p plan) plain() string   { return filepath.Join(p.Dir, "not-executable") }

// order is a request to split.
type order struct {
	Fault    string
	Size     int           // of the bulk state
	After    time.Duration // until the new process is killed, or the split is given up
	Patience time.Duration // the ReadyTimeout of the next generation
}

// service is one generation of the program under test.
type service struct {
	plan
	order order // of the split that has started it
	m     *mitosis.Registry
	work  sync.WaitGroup // what has to end before the process does

	splits    sync.Mutex // held by the one who splits
	mu        sync.Mutex
	next      order
	assassin  assassin
	bulkMu    sync.Mutex
	bulk      []byte
	shards    [4]shard // of the chat
	questions ledger   // of the line server
}

// runService is the life of a generation.
func runService(text string) error {
	fmt.Printf("born %d\n", os.Getpid())
	s := &service{}
	if err := json.Unmarshal([]byte(text), &s.plan); err != nil {
		return err
	}
	if text, ok := os.LookupEnv(orderVariable); ok {
		os.Unsetenv(orderVariable)
		if err := json.Unmarshal([]byte(text), &s.order); err != nil {
			return err
		}
	}
	switch s.order.Fault {
	case exits:
		os.Exit(3)
	case hangs:
		<-time.After(time.Hour)
	}
	return s.run()
}

func (s *service) run() error {
	m, err := mitosis.Init(mitosis.Options{
		ReadyTimeout: cmp.Or(s.order.Patience, bound), FreezeTimeout: bound, StateTimeout: bound, CommitTimeout: bound,
		PIDFile: s.pidFile(), Command: s.spoil, Logger: slog.New(s.watcher()),
	})
	if err != nil {
		return err
	}
	s.m = m
	defer m.Close()
	web, err1 := m.Listen("web", "tcp", "127.0.0.1:0")
	local, err2 := m.Listen("local", "unix", s.socket())
	chat, err3 := m.Listen("chat", "tcp", "127.0.0.1:0")
	udp, err4 := m.ListenPacket("datagrams", "udp", "127.0.0.1:0")
	journal, err5 := s.openJournal()
	if err := errors.Join(err1, err2, err3, err4, err5, s.declareStates()); err != nil {
		return err
	}
	defer journal.Close()
	ctx := context.Background()
	if err := m.Ready(ctx); err != nil {
		return err
	}
	s.checkBulk()
	fmt.Fprintf(journal, "%d\n", m.Generation())
	if err := s.takeUp(); err != nil {
		return err
	}
	server := &httpx.Server{Server: &http.Server{Handler: s.handler()}, DrainTimeout: bound}
	for _, l := range []net.Listener{web, local} {
		s.work.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				broken("serve: %v", err)
			}
		})
	}
	s.work.Go(func() { s.acceptPeers(chat.(*mitosis.Listener)) })
	s.work.Go(func() { s.answerDatagrams(udp) })
	s.work.Go(s.speakUnasked)
	fmt.Printf("serving %d %d %s %s %s\n", os.Getpid(), m.Generation(), web.Addr(), chat.Addr(), udp.LocalAddr())
	err = m.Wait(ctx)
	if stopped := errors.Is(err, mitosis.ErrStopped); !stopped && !errors.Is(err, mitosis.ErrSuperseded) {
		return err
	} else if stopped {
		defer s.work.Wait()
		defer m.Close() // which ends what waits for peers
		return server.Shutdown(ctx)
	}
	err = server.Shutdown(ctx)
	s.work.Wait()
	return err
}

func (s *service) declareStates() error {
	err := s.m.State("bulk", mitosis.Locked(&s.bulkMu, &fragile{mitosis.Bytes(&s.bulk), s}))
	for i := range s.shards {
		shard := &s.shards[i]
		err = errors.Join(err, s.m.State(fmt.Sprintf("shard %d", i), mitosis.Locked(&shard.mu, mitosis.Gob(&shard.Book))))
	}
	return errors.Join(err, s.m.State("questions", mitosis.Locked(&s.questions.mu, mitosis.JSON(&s.questions.Count))))
}

// openJournal returns the file in which each generation writes its number.
func (s *service) openJournal() (*os.File, error) {
	if s.m.Generation() > 1 {
		return s.m.File("journal")
	}
	f, err := os.OpenFile(s.journal(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return f, s.m.AddFile("journal", f)
}

// split obeys an order.
func (s *service) split(o order) error {
	s.splits.Lock()
	defer s.splits.Unlock()
	s.bulkMu.Lock()
	s.bulk = newBulk(o.Size)
	s.bulkMu.Unlock()
	s.mu.Lock()
	s.next = o
	s.mu.Unlock()
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if o.Fault == givenUp {
		ctx, cancel = context.WithTimeout(ctx, o.After)
	}
	defer cancel()
	err := s.m.Split(ctx)
	s.mu.Lock()
	s.next = order{}
	s.mu.Unlock()
	s.checkBulk()
	if errors.Is(err, mitosis.ErrSplitting) {
		s.m.Remove("nothing") // waits for the outcome
	}
	return err
}

func (s *service) present() order {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// newBulk returns n random bytes that end with their checksum.
func newBulk(n int) []byte {
	if n <= sha256.Size {
		return nil
	}
	b := make([]byte, n-sha256.Size, n)
	rand.Read(b)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func (s *service) checkBulk() {
	s.bulkMu.Lock()
	defer s.bulkMu.Unlock()
	n := len(s.bulk) - sha256.Size
	if n < 0 {
		if len(s.bulk) != 0 {
			broken("bulk state: %d bytes", len(s.bulk))
		}
		return
	}
	if sum := sha256.Sum256(s.bulk[:n]); !bytes.Equal(sum[:], s.bulk[n:]) {
		broken("bulk state: wrong checksum of %d bytes", n)
	}
}

// fragile is a state that breaks when it should.
type fragile struct {
	mitosis.State
	s *service
}

var errFragile = errors.New("fragile state")

func (f *fragile) Save(w io.Writer) error {
	switch f.s.present().Fault {
	case saveFails:
		w.Write(f.s.bulk[:len(f.s.bulk)/2])
		return errFragile
	case savePanics:
		panic(errFragile)
	}
	return f.State.Save(w)
}

func (f *fragile) Load(r io.Reader) error {
	if f.s.order.Fault == loadPanics {
		io.CopyN(io.Discard, r, 1000)
		panic(errFragile)
	}
	return f.State.Load(r)
}

// broken says that a promise was broken. The test fails by it.
func broken(format string, values ...any) {
	fmt.Printf("BROKEN %d %s\n", os.Getpid(), fmt.Sprintf(format, values...))
}
