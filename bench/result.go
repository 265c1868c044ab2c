package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bhuthesh/mitosis/bench/client"
	"github.com/bhuthesh/mitosis/bench/variants"
)

// binWidth is the width of a bin on the time line.
const binWidth = 100 * time.Millisecond

// milliseconds is how times are written to JSON.
type milliseconds float64

func inMilliseconds(d time.Duration) milliseconds {
	return milliseconds(float64(d.Microseconds()) / 1000)
}

// results are those of one run.
type results struct {
	Date     time.Time         `json:"date"`
	System   string            `json:"system"`
	Programs map[string]string `json:"programs"`
	Clients  client.Mix        `json:"clients"`
	Pause    milliseconds      `json:"pause_ms"`
	Restarts int               `json:"restarts"`
	Every    milliseconds      `json:"every_ms"`
	Steady   milliseconds      `json:"steady_ms"`
	LeftOut  map[string]string `json:"left_out,omitempty"`
	Variants []*result         `json:"variants"`
}

// result is that of one variant.
type result struct {
	Name        string                        `json:"name"`
	Description string                        `json:"description"`
	Counts      client.Counts                 `json:"counts"`
	Early       int                           `json:"failed_before_first_restart"`
	ByKind      map[client.Kind]client.Counts `json:"by_kind"`
	Resets      int                           `json:"resets_sent"` // by the whole system; negative if it does not tell
	Reasons     map[string]int                `json:"failures,omitempty"`
	Latency     phases                        `json:"latency"`
	LatencyBy   map[client.Kind]phases        `json:"latency_by_kind"`
	Restarts    []restartTimes                `json:"restarts,omitempty"`
	Timeline    []bin                         `json:"timeline"`
}

// phases are the latencies without and with restarts.
type phases struct {
	Steady     latencies `json:"steady"`
	Restarting latencies `json:"restarting"`
}

type latencies struct {
	Requests int          `json:"requests"`
	P50      milliseconds `json:"p50_ms"`
	P99      milliseconds `json:"p99_ms"`
	P999     milliseconds `json:"p999_ms"`
	Max      milliseconds `json:"max_ms"`
}

type restartTimes struct {
	At       milliseconds `json:"at_ms"`
	Answered milliseconds `json:"first_answer_ms"`
	Ended    milliseconds `json:"old_ended_ms"`
}

// bin is a short time on the time line.
type bin struct {
	At         milliseconds `json:"at_ms"`
	Requests   int          `json:"requests"` // those that started in it, of the quick kinds
	P50        milliseconds `json:"p50_ms"`
	P99        milliseconds `json:"p99_ms"`
	Max        milliseconds `json:"max_ms"`
	Redialled  int          `json:"redialled"`
	ClosedIdle int          `json:"closed_idle"`
	Failed     int          `json:"failed"` // of all kinds, at their end
}

func newResults(p plan, chosen []variants.Variant) results {
	return results{
		Date:     time.Now().UTC().Truncate(time.Second),
		System:   system(),
		Programs: programs(chosen),
		Clients:  p.mix,
		Pause:    inMilliseconds(p.pause),
		Restarts: p.restarts,
		Every:    inMilliseconds(p.every),
		Steady:   inMilliseconds(p.steady),
		LeftOut:  map[string]string{},
	}
}

func newResult(v variants.Variant, p plan, report *client.Report, restarts []restart) *result {
	// Without restarts the same time is looked at, which shows how much the two phases differ by chance.
	first := p.steady
	if len(restarts) > 0 {
		first = restarts[0].signal
	}
	r := &result{
		Name:        v.Name,
		Description: v.Description,
		Counts:      report.Counts,
		ByKind:      report.ByKind,
		Reasons:     report.Reasons,
		Latency:     newPhases(report, first, client.Kind.Quick),
		LatencyBy:   map[client.Kind]phases{},
		Timeline:    newTimeline(report),
	}
	for _, kind := range client.Kinds {
		r.LatencyBy[kind] = newPhases(report, first, func(k client.Kind) bool { return k == kind })
	}
	for _, sample := range report.Samples {
		if sample.Failed != "" && sample.End < first {
			r.Early++
		}
	}
	for _, one := range restarts {
		r.Restarts = append(r.Restarts, restartTimes{
			At:       inMilliseconds(one.signal),
			Answered: inMilliseconds(one.answered),
			Ended:    inMilliseconds(one.ended),
		})
	}
	return r
}

// newPhases takes a request for one of the steady phase if it had ended before the first restart.
func newPhases(report *client.Report, first time.Duration, choose func(client.Kind) bool) phases {
	return phases{
		Steady: newLatencies(report.Latencies(func(s client.Sample) bool {
			return choose(s.Kind) && s.Start >= warmUp && s.End < first
		})),
		Restarting: newLatencies(report.Latencies(func(s client.Sample) bool {
			return choose(s.Kind) && s.End >= first
		})),
	}
}

func newLatencies(sorted []time.Duration) latencies {
	return latencies{
		Requests: len(sorted),
		P50:      inMilliseconds(client.Quantile(sorted, 0.5)),
		P99:      inMilliseconds(client.Quantile(sorted, 0.99)),
		P999:     inMilliseconds(client.Quantile(sorted, 0.999)),
		Max:      inMilliseconds(client.Quantile(sorted, 1)),
	}
}

func newTimeline(report *client.Report) []bin {
	bins := make([]bin, report.Length/binWidth+1)
	times := make([][]time.Duration, len(bins))
	for i := range bins {
		bins[i].At = inMilliseconds(time.Duration(i) * binWidth)
	}
	for _, sample := range report.Samples {
		switch start := sample.Start / binWidth; {
		case sample.Failed != "":
			bins[sample.End/binWidth].Failed++
		case sample.Kind.Quick():
			times[start] = append(times[start], sample.Latency())
		}
	}
	for _, event := range report.Events {
		switch at := event.At / binWidth; event.What {
		case client.Redialled:
			bins[at].Redialled++
		case client.ClosedIdle:
			bins[at].ClosedIdle++
		}
	}
	for i, all := range times {
		slices.Sort(all)
		bins[i].Requests = len(all)
		bins[i].P50 = inMilliseconds(client.Quantile(all, 0.5))
		bins[i].P99 = inMilliseconds(client.Quantile(all, 0.99))
		bins[i].Max = inMilliseconds(client.Quantile(all, 1))
	}
	return bins
}

func (r results) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// system says on what the figures were taken.
func system() string {
	parts := []string{runtime.GOOS + "/" + runtime.GOARCH, runtime.Version()}
	if release, err := exec.Command("uname", "-r").Output(); err == nil {
		parts = append(parts, "kernel "+strings.TrimSpace(string(release)))
	}
	return strings.Join(append(parts, plural(runtime.NumCPU(), "CPU")), ", ")
}

// programs returns the versions of the programs of others that the variants need.
func programs(chosen []variants.Variant) map[string]string {
	versions := map[string]string{}
	for _, v := range chosen {
		if program, version := v.Version(); version != "" {
			versions[program] = version
		}
	}
	return versions
}
