package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/bhuthesh/mitosis"
)

const (
	registerTimeout = time.Minute      // from NICK and USER to 001
	idleTimeout     = 2 * time.Minute  // silence after which the bot asks whether the server is still there
	pingTimeout     = time.Minute      // and for how long it waits for anything
	writeTimeout    = 30 * time.Second // for a server that reads nothing
	joinTimeout     = time.Minute      // after which a JOIN without an answer is sent again
	maxBackOff      = 5 * time.Minute  // between attempts to connect, and to join
	stableAfter     = time.Minute      // a connection that held this long starts the back-off anew
	goodbyeTimeout  = 3 * time.Second  // for the server to close after QUIT
)

// A conn is what the bot needs of a *mitosis.Conn.
type conn interface {
	net.Conn
	Reader() *bufio.Reader
	Inherited() bool
}

// A bot is one generation of the bot.
type bot struct {
	config     config
	log        *slog.Logger
	started    time.Time // of this generation
	generation int
	dial       func(context.Context) (conn, error)
	split      func(context.Context) error
	superseded <-chan struct{} // closed when the next generation has taken over
	wake       chan struct{}   // holds one token when there may be something to send

	mu      sync.Mutex
	memory  memory
	leaving bool // for good: the process has been told to stop
}

func newBot(c config, log *slog.Logger) *bot {
	return &bot{config: c, log: log, started: time.Now(), wake: make(chan struct{}, 1)}
}

// resume fits the memory to the flags: what the generation before has left, or nothing in the first one.
func (b *bot) resume(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := &b.memory
	if m.Born.IsZero() {
		m.Born = now
	}
	if m.Session.Phase == offline {
		m.Session.Support = defaultSupport()
	}
	var channels []*channel
	for _, want := range b.config.Channels {
		c := m.channel(want.Name)
		if c == nil {
			c = &channel{Name: want.Name, Rejoin: now}
		}
		c.Key = want.Key
		channels = append(channels, c)
	}
	left := m.Channels
	m.Channels = channels
	for _, c := range left {
		if c.Joined && m.channel(c.Name) == nil {
			b.push(line("PART", c.Name))
		}
	}
	if r := m.Restart; r != nil {
		m.Restart = nil
		b.reply(r.Origin, b.describe()+", "+now.Sub(r.Asked).Round(time.Millisecond).String()+" after you asked")
	}
}

// run keeps the bot connected until ctx ends or the next generation has the connection.
func (b *bot) run(ctx context.Context) {
	for b.waitToDial(ctx) {
		c, err := b.dial(ctx)
		if err == nil {
			err = b.serve(ctx, c)
		}
		switch {
		case errors.Is(err, mitosis.ErrSuperseded), ctx.Err() != nil, b.isLeaving():
			return
		case c == nil:
			b.mu.Lock()
			b.backOff(time.Now())
			b.mu.Unlock()
		}
		b.log.Warn("no connection", "server", b.config.Server, "error", err)
	}
}

// waitToDial waits out the back-off, which may have begun in another generation.
func (b *bot) waitToDial(ctx context.Context) bool {
	b.mu.Lock()
	wait := time.Until(b.memory.Redial)
	b.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-b.superseded:
	case <-ctx.Done():
	}
	return false
}

// backOff sets the time of the next attempt to connect. The caller holds mu.
func (b *bot) backOff(now time.Time) {
	b.memory.Redial = now.Add(delay(b.config.Reconnect, b.memory.Failures))
	b.memory.Failures++
}

// delay doubles base with each failure, and spreads the result by a quarter to either side.
func delay(base time.Duration, failures int) time.Duration {
	d := min(base<<min(failures, 16), max(base, maxBackOff))
	return d*3/4 + rand.N(d/2+1)
}

// serve talks to the server until the connection is lost, which it returns as an error, or superseded.
func (b *bot) serve(ctx context.Context, c conn) error {
	b.mu.Lock()
	if !c.Inherited() || b.memory.Session.Phase == offline {
		b.begin(time.Now())
	} else {
		b.log.Info("connection inherited", "nick", b.memory.Session.Nick)
	}
	b.mu.Unlock()

	done := make(chan struct{})
	talked := make(chan error, 1)
	go func() { talked <- b.talk(c, done) }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()

	err := b.listen(c)
	close(done)
	if talkErr := <-talked; talkErr != nil {
		err = talkErr // it came first: listen has only seen the connection closed
	}
	if !errors.Is(err, mitosis.ErrSuperseded) {
		b.hangUp(c)
	}
	return err
}

// hangUp ends the session and the connection in one step: no generation ever has one without the other.
func (b *bot) hangUp(c conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = c.Close()
	m := &b.memory
	if m.Session.Phase == offline {
		return
	}
	now := time.Now()
	if m.Session.Phase == registered && now.Sub(m.Session.Since) > stableAfter {
		m.Failures = 0
	}
	b.backOff(now)
	if n := m.Queue.clear(); n > 0 {
		b.log.Warn("not said", "lines", n)
	}
	m.Session = session{Support: m.Session.Support}
	m.Grants, m.Inquiry = nil, nil
	for _, channel := range m.Channels {
		channel.Joined, channel.Failures, channel.Rejoin = false, 0, now
	}
}

// listen handles line after line. A line counts as dealt with when the reader goes back for the next one; all
// that it has brought about is in the memory by then.
func (b *bot) listen(c conn) error {
	r := c.Reader()
	for {
		text, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		b.mu.Lock()
		if b.memory.Session.Phase == offline {
			b.mu.Unlock()
			return net.ErrClosed // talk has given up, and what was said before is of no use any more
		}
		now := time.Now()
		b.memory.Session.Heard, b.memory.Session.Pinged = now, time.Time{}
		skip := b.memory.Session.Skipping
		b.memory.Session.Skipping = err != nil
		if skip || b.memory.Session.Skipping {
			b.log.Warn("line too long", "bytes", len(text))
		} else {
			b.receive(now, string(text))
		}
		_, err = b.work(now, c)
		b.mu.Unlock()
		if err != nil {
			return err
		}
		b.nudge() // what talk waits for may be another time now
	}
}

// receive handles one line. The caller holds mu.
func (b *bot) receive(now time.Time, text string) {
	m, err := parseMessage(text)
	if err != nil {
		b.log.Debug("not a message", "line", text, "error", err)
		return
	}
	b.handle(now, m)
}

// talk sends what is due until done is closed. When it fails it closes the connection, so that listen ends too.
func (b *bot) talk(c conn, done <-chan struct{}) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-b.wake:
		case <-done:
			return nil
		}
		b.mu.Lock()
		wait, err := b.work(time.Now(), c)
		b.mu.Unlock()
		if err != nil {
			if !errors.Is(err, mitosis.ErrSuperseded) {
				b.hangUp(c)
			}
			return err
		}
		timer.Reset(wait)
	}
}

// nudge makes talk look again.
func (b *bot) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// work does what is due, and returns when it wants to be called again at the latest. The caller holds mu, and so a
// line leaves the queue and reaches the connection in one step: the split comes before both or after both.
func (b *bot) work(now time.Time, w io.Writer) (time.Duration, error) {
	wait, err := b.chores(now)
	if err != nil {
		return 0, err
	}
	for {
		text, pause := b.memory.Queue.next(now, b.config.Pace)
		if text == "" {
			if pause > 0 {
				wait = min(wait, pause)
			}
			return wait, nil
		}
		if c, ok := w.(conn); ok {
			_ = c.SetWriteDeadline(now.Add(writeTimeout))
		}
		if _, err := io.WriteString(w, cut(text, b.room())+"\r\n"); err != nil {
			return 0, err
		}
	}
}

// room is how long a line of ours may be: the server puts our prefix in front of it before it sends it on.
func (b *bot) room() int {
	s := &b.memory.Session
	user, host := len(s.User), len(s.Host)
	if user == 0 {
		user, host = s.Support.UserLength+1, s.Support.HostLength
	}
	return maxLine - len(":!@ \r\n") - len(s.Nick) - user - host
}

// goodbye leaves the server, and reports whether there was one to leave.
func (b *bot) goodbye(reason string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaving = true
	if b.memory.Session.Phase == offline {
		return false
	}
	b.urgent(line("QUIT", reason))
	return true
}

func (b *bot) isLeaving() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leaving
}
