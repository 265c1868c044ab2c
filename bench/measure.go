package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bhuthesh/mitosis/bench/client"
	"github.com/bhuthesh/mitosis/bench/variants"
)

const (
	// warmUp is the time after the start of the load that is not measured.
	warmUp = 500 * time.Millisecond
	// restartPatience limits the time until a new process answers.
	restartPatience = 10 * time.Second
	// oldPatience limits the time until the old processes have ended.
	oldPatience = 30 * time.Second
)

// plan is what is done to each variant.
type plan struct {
	restarts int
	every    time.Duration
	steady   time.Duration
	mix      client.Mix
	pause    time.Duration
	seed     uint64
}

// length is an upper limit for the time that all of it takes.
func (p plan) length() time.Duration {
	return p.steady + time.Duration(p.restarts)*max(p.every, restartPatience) + oldPatience
}

// restart is what one restart took. Times count from the start of the load, or from the signal.
type restart struct {
	signal   time.Duration
	answered time.Duration // from the signal to the first answer of a new process
	ended    time.Duration // from the signal to the end of the last old process; 0 if it did not end
}

// measure starts a variant, puts it under load, restarts it according to the plan and stops it. With an
// error there is a result only if it is complete up to there.
func measure(ctx context.Context, v variants.Variant, p plan) (r *result, err error) {
	directory, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	instance, err := v.Start(ctx, directory)
	if err != nil {
		return nil, err
	}
	resets := resetsSent()
	load := client.Start(client.Options{
		Address:  instance.Address(),
		Mix:      p.mix,
		Duration: p.length(),
		Pause:    p.pause,
		Seed:     p.seed,
	})
	restarts, err := drive(ctx, v, instance, load, p)
	if resets >= 0 {
		resets = resetsSent() - resets
	}
	load.Stop()
	report := load.Wait()
	if stopErr := instance.Stop(); stopErr != nil {
		err = errors.Join(err, fmt.Errorf("stop: %w", stopErr))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", v.Name, err)
	}
	r = newResult(v, p, report, restarts)
	r.Resets = resets
	return r, err
}

// drive follows the plan while the load lasts.
func drive(ctx context.Context, v variants.Variant, instance variants.Instance, load *client.Load, p plan) ([]restart, error) {
	if err := sleep(ctx, p.steady); err != nil {
		return nil, err
	}
	if !v.Restarts {
		return nil, sleep(ctx, time.Duration(p.restarts)*p.every)
	}
	var restarts []restart
	var ends []<-chan time.Time
	var failure error
	pace := time.NewTicker(p.every)
	defer pace.Stop()
	for n := range p.restarts {
		next, end, err := restartOnce(ctx, instance, load)
		if err != nil {
			failure = fmt.Errorf("restart %d: %w", n+1, err)
			break
		}
		restarts, ends = append(restarts, next), append(ends, end)
		select {
		case <-pace.C:
		case <-ctx.Done():
			return restarts, ctx.Err()
		}
	}
	limit := time.NewTimer(oldPatience)
	defer limit.Stop()
	for n, end := range ends {
		select {
		case at := <-end:
			restarts[n].ended = at.Sub(load.Started()) - restarts[n].signal
		case <-limit.C:
			return restarts, errors.Join(failure, fmt.Errorf("restart %d: the old process has not ended after %v", n+1, oldPatience))
		case <-ctx.Done():
			return restarts, ctx.Err()
		}
	}
	return restarts, failure
}

// restartOnce asks for a restart and returns when a new process has answered a client. The channel gets
// the time at which the last of the old ones has ended.
func restartOnce(ctx context.Context, instance variants.Instance, load *client.Load) (restart, <-chan time.Time, error) {
	old, err := instance.Processes()
	if err != nil {
		return restart{}, nil, err
	}
	known := load.Processes()
	for _, process := range old {
		known[process] = time.Time{}
	}
	end, err := watch(old)
	if err != nil {
		return restart{}, nil, err
	}
	signalled := time.Now()
	if err := instance.Restart(); err != nil {
		return restart{}, nil, err
	}
	limited, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	_, at, err := load.Newcomer(limited, known)
	if err != nil {
		return restart{}, nil, fmt.Errorf("no new process has answered: %w", err)
	}
	return restart{signal: signalled.Sub(load.Started()), answered: at.Sub(signalled)}, end, nil
}

// watch returns a channel that gets the time at which the last of the processes has ended.
func watch(processes []int) (<-chan time.Time, error) {
	var gone []<-chan struct{}
	for _, process := range processes {
		one, err := variants.Watch(process)
		if err != nil {
			return nil, err
		}
		gone = append(gone, one)
	}
	end := make(chan time.Time, 1)
	go func() {
		for _, one := range gone {
			<-one
		}
		end <- time.Now()
	}()
	return end, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
