// Package client puts an HTTP/1.1 server under the load of many clients that notice everything: raw
// sockets, requests written by hand, nothing ever tried twice behind one's back, and every answer checked
// to its last byte. A POST that was sent and not answered is a failure, as it is in life.
//
// It speaks to the handler of package service, and depends on nothing but that and the standard library.
package client

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// Options describe a load. Only Address is needed.
type Options struct {
	Address  string        // TCP address of the server
	Mix      Mix           // default: NewMix(229)
	Duration time.Duration // the load ends by itself after this time; default 1m
	Requests int           // each client ends after this many requests, parked ones after two; default: no limit
	Pause    time.Duration // of busy clients after an answer, at most; default: none, which keeps a CPU busy
	Timeout  time.Duration // for a dial and for an answer; default 10s
	Seed     uint64        // of all that is random in the clients; default 1
}

// Load is a group of clients at work.
type Load struct {
	options Options
	start   time.Time
	context context.Context
	cancel  context.CancelFunc
	clients sync.WaitGroup

	mu        sync.Mutex
	byKind    map[Kind]*Counts
	reasons   map[string]int
	samples   []Sample
	events    []Event
	processes map[int]time.Time // first answer of each process
	newcomer  chan struct{}     // closed and replaced when processes grows
}

// Start starts the clients. The caller ends them with Stop, or waits for their end with Wait.
func Start(options Options) *Load {
	if options.Mix == nil {
		options.Mix = NewMix(229)
	}
	if options.Duration <= 0 {
		options.Duration = time.Minute
	}
	if options.Timeout <= 0 {
		options.Timeout = 10 * time.Second
	}
	if options.Seed == 0 {
		options.Seed = 1
	}
	l := &Load{
		options:   options,
		start:     time.Now(),
		byKind:    map[Kind]*Counts{},
		reasons:   map[string]int{},
		processes: map[int]time.Time{},
		newcomer:  make(chan struct{}),
	}
	l.context, l.cancel = context.WithTimeout(context.Background(), options.Duration)
	for _, kind := range AllKinds {
		l.byKind[kind] = &Counts{}
	}
	number := 0
	for _, kind := range AllKinds {
		for range options.Mix[kind] {
			number++
			c := &client{
				load:   l,
				kind:   kind,
				number: number,
				random: rand.New(rand.NewPCG(options.Seed, uint64(number))),
			}
			l.clients.Go(c.run)
		}
	}
	return l
}

// Stop asks the clients to end: each finishes the requests that it has under way.
func (l *Load) Stop() { l.cancel() }

// Wait returns when all clients have ended.
func (l *Load) Wait() *Report {
	l.clients.Wait()
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	report := &Report{
		Start:   l.start,
		Length:  time.Since(l.start),
		ByKind:  map[Kind]Counts{},
		Reasons: maps.Clone(l.reasons),
		Samples: l.samples,
		Events:  l.events,
	}
	for kind, counts := range l.byKind {
		report.ByKind[kind] = *counts
		report.Counts.Add(*counts)
	}
	return report
}

// Counts returns the counts so far.
func (l *Load) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	var counts Counts
	for _, c := range l.byKind {
		counts.Add(*c)
	}
	return counts
}

// Started returns when the load was started.
func (l *Load) Started() time.Time { return l.start }

// Processes returns the processes that have answered so far, and when each did so first.
func (l *Load) Processes() map[int]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.processes)
}

// Newcomer waits until a process that is not in known has answered, and returns it and the time of its
// first answer.
func (l *Load) Newcomer(ctx context.Context, known map[int]time.Time) (process int, at time.Time, err error) {
	for {
		l.mu.Lock()
		for process, at = range l.processes {
			if _, ok := known[process]; !ok {
				l.mu.Unlock()
				return process, at, nil
			}
		}
		newcomer := l.newcomer
		l.mu.Unlock()
		select {
		case <-newcomer:
		case <-ctx.Done():
			return 0, time.Time{}, ctx.Err()
		case <-l.context.Done():
			return 0, time.Time{}, l.context.Err()
		}
	}
}

func (l *Load) count(kind Kind, change func(*Counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.byKind[kind])
}

func (l *Load) answered(kind Kind, process int, start, end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byKind[kind].Answered++
	l.samples = append(l.samples, Sample{Kind: kind, Start: start.Sub(l.start), End: end.Sub(l.start)})
	if _, ok := l.processes[process]; !ok {
		l.processes[process] = end
		close(l.newcomer)
		l.newcomer = make(chan struct{})
	}
}

func (l *Load) failed(kind Kind, reason string, start, end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byKind[kind].Failed++
	l.reasons[string(kind)+": "+reason]++
	l.samples = append(l.samples, Sample{kind, start.Sub(l.start), end.Sub(l.start), reason})
}

func (l *Load) event(kind Kind, what What) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.byKind[kind]
	switch what {
	case Redialled:
		counts.Redialled++
	case ClosedIdle:
		counts.ClosedIdle++
	case Told:
		counts.Told++
	}
	l.events = append(l.events, Event{At: time.Since(l.start), Kind: kind, What: what})
}
