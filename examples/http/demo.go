package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stepLimit is when the demo gives up on a step of the service: its start, a restart, its end.
const stepLimit = 20 * time.Second

// demonstration is one run of -demo.
type demonstration struct {
	config
	out     io.Writer
	service *generations
	tally   *tally
	clients sync.WaitGroup

	reign    arrival // of the newest generation
	reported counts  // in the lines so far
	restarts []time.Duration
}

// demo restarts a service under traffic and says what its clients saw. It returns an error if they could notice a restart.
func demo(out io.Writer, c config) error {
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer restore()
	log, err := os.CreateTemp("", "http-demo-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	service, err := startGenerations(log, log, "-addr", "127.0.0.1:0", "-drain", c.drain.String())
	if err != nil {
		return err
	}
	d := &demonstration{config: c, out: out, service: service, tally: newTally(c.restarts + 1)}
	err = d.run(ctx)
	err = errors.Join(err, d.end())
	if err != nil {
		say(out, "\nThe service's log:\n%s", tail(log.Name()))
	}
	return err
}

// run is the demonstration from its start until the service may end.
func (d *demonstration) run(ctx context.Context) error {
	began := time.Now()
	serving, err := d.nextReport(ctx)
	if err != nil {
		return err
	}
	say(d.out, "Service: pid %d on %s. Clients: %s. Restarts: %d, one every %v.", serving.pid, serving.address,
		d.describeClients(), d.config.restarts, d.every)
	say(d.out, "A busy and a mostly idle client keep one connection for all their requests; a short-lived one dials for each.")
	say(d.out, "Each line is what they saw while a generation was the newest. \"By older\" are answers to requests that were")
	say(d.out, "under way when it took over; \"re-dialled\" are kept connections that the service has closed.")
	say(d.out, "\n%10s %9s %10s %10s %8s %11s %9s", "generation", "pid", "requests", "by older", "failed", "re-dialled", "restart")
	traffic, stop := context.WithCancel(context.Background())
	defer d.clients.Wait()
	defer stop()
	for i := range d.config.clients {
		c := &client{number: i + 1, address: serving.address, habit: habits[i%len(habits)], tally: d.tally}
		d.clients.Go(func() { c.run(traffic) })
	}
	if d.reign, err = d.nextArrival(ctx); err != nil {
		return err
	}
	for range d.config.restarts {
		if err := d.pass(ctx, d.every); err != nil {
			return err
		}
		if err := d.restart(ctx); err != nil {
			return err
		}
	}
	if err := d.pass(ctx, d.every); err != nil {
		return err
	}
	stop()
	d.clients.Wait()
	d.line()
	return d.summary(ctx, serving.address, time.Since(began))
}

// pass lets time pass, unless the service ends.
func (d *demonstration) pass(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case r, ok := <-d.service.reports:
		return unexpected(r, ok)
	case <-ctx.Done():
		return errors.New("interrupted")
	}
}

// restart restarts the service, and writes the line of the generation that was the newest until then.
func (d *demonstration) restart(ctx context.Context) error {
	signalled := time.Now()
	if err := d.service.restart(d.reign.PID, syscall.SIGHUP); err != nil {
		return err
	}
	serving, err := d.nextReport(ctx)
	if err != nil {
		return err
	}
	next, err := d.nextArrival(ctx)
	if err != nil {
		return err
	}
	if next.PID != serving.pid || next.Generation != d.reign.Generation+1 {
		return fmt.Errorf("generation %d, pid %d, has answered after generation %d; pid %d says that it serves",
			next.Generation, next.PID, d.reign.Generation, serving.pid)
	}
	d.line()
	d.reign = next
	d.restarts = append(d.restarts, next.at.Sub(signalled))
	return nil
}

// line says what has happened since the last line.
func (d *demonstration) line() {
	total := d.tally.counts()
	news := total.minus(d.reported)
	d.reported = total
	restart := "-"
	if n := len(d.restarts); n > 0 {
		restart = milliseconds(d.restarts[n-1])
	}
	say(d.out, "%10d %9d %10d %10d %8d %11d %9s", d.reign.Generation, d.reign.PID, news.answered, news.byOlder, news.failed, news.redialled, restart)
}

// summary says what has happened altogether, and returns an error if a client could notice a restart.
func (d *demonstration) summary(ctx context.Context, address string, took time.Duration) error {
	total := d.tally.counts()
	say(d.out, "\n%d restarts in %.1f s: %d requests answered, %d failed.", len(d.restarts), took.Seconds(), total.answered, total.failed)
	say(d.out, "%d connections were dialled to be kept: %d closed by the service, %d re-dialled.", total.dialled, total.closed, total.redialled)
	if len(d.restarts) > 0 {
		sorted := slices.Sorted(slices.Values(d.restarts))
		say(d.out, "Restart, from the signal to the first answer of the new generation: median %s, longest %s.",
			milliseconds(sorted[len(sorted)/2]), milliseconds(sorted[len(sorted)-1]))
	}
	for _, failure := range d.tally.described() {
		say(d.out, "failed: %s", failure)
	}
	counted, err := settledHits(ctx, address, total.answered)
	if err != nil {
		return err
	}
	say(d.out, "The service has counted %d hits in %d generations.", counted, d.reign.Generation)
	switch {
	case total.failed > 0:
		return fmt.Errorf("%d requests failed", total.failed)
	case total.closed > 0 || total.redialled > 0:
		return fmt.Errorf("%d connections were closed, %d re-dialled", total.closed, total.redialled)
	case counted != int64(total.answered):
		return fmt.Errorf("the service has counted %d hits for %d requests", counted, total.answered)
	case total.answered == 0:
		return errors.New("no request was answered")
	}
	return nil
}

// settledHits asks the service for its hits until it has heard from all old generations that some came late. What
// it returns does not include its own requests.
func settledHits(ctx context.Context, address string, want int) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	c := &client{address: address, habit: habit{name: "count"}, tally: newTally(0)}
	for {
		c.requests++
		a, err := c.request()
		if err != nil {
			return 0, fmt.Errorf("hits: %w", err)
		}
		if n := a.Hits - int64(c.requests); n >= int64(want) || ctx.Err() != nil {
			return n, nil
		}
		c.wait(ctx, 10*time.Millisecond)
	}
}

// end stops the service and waits for its last process.
func (d *demonstration) end() error {
	stopErr := d.service.stop(syscall.SIGTERM)
	limit := time.After(stepLimit)
	stopped := false
	for {
		select {
		case r, ok := <-d.service.reports:
			switch {
			case ok:
				stopped = r.pid == 0
			case !stopped:
				return errors.Join(errCrashed, stopErr)
			default:
				return stopErr
			}
		case <-limit:
			return errors.Join(errors.New("the service does not end and is killed"), d.service.stop(syscall.SIGKILL))
		}
	}
}

// nextReport waits until a generation says that it serves.
func (d *demonstration) nextReport(ctx context.Context) (report, error) {
	select {
	case r, ok := <-d.service.reports:
		if !ok || r.pid == 0 {
			return r, unexpected(r, ok)
		}
		return r, nil
	case <-ctx.Done():
		return report{}, errors.New("interrupted")
	case <-time.After(stepLimit):
		return report{}, errors.New("no new generation serves")
	}
}

// nextArrival waits until a new generation has answered.
func (d *demonstration) nextArrival(ctx context.Context) (arrival, error) {
	select {
	case a := <-d.tally.arrivals:
		return a, nil
	case r, ok := <-d.service.reports:
		return arrival{}, unexpected(r, ok)
	case <-ctx.Done():
		return arrival{}, errors.New("interrupted")
	case <-time.After(stepLimit):
		return arrival{}, errors.New("the new generation has answered nobody")
	}
}

func unexpected(r report, ok bool) error {
	switch {
	case !ok:
		return errCrashed
	case r.pid == 0:
		return errors.New("the service was stopped")
	}
	return fmt.Errorf("a generation with pid %d serves that nobody asked for", r.pid)
}

// describeClients says how many clients of which habit there are.
func (d *demonstration) describeClients() string {
	var names []string
	number := map[string]int{}
	for i := range d.config.clients {
		name := habits[i%len(habits)].name
		if number[name]++; number[name] == 1 {
			names = append(names, name)
		}
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", number[name], name)
	}
	return strings.Join(names, ", ")
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// tail returns the last lines of a log.
func tail(path string) string {
	const lines = 40
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
