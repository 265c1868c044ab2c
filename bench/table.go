package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bhuthesh/mitosis/bench/client"
)

// line says in one line how a variant did.
func (r *result) line() string {
	return fmt.Sprintf("%s, %d requests, %d failed, %d closed while idle, %d told to close, %d re-dialled",
		plural(len(r.Restarts), "restart"), r.Counts.Requests, r.Counts.Failed, r.Counts.ClosedIdle, r.Counts.Told, r.Counts.Redialled)
}

// markdown returns the tables.
func (r results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s. %d clients on loopback (%s).\n", r.Date.Format(time.DateOnly), r.System, r.Clients.Total(), r.clients())
	fmt.Fprintf(&b, "%s, one every %v ms, after %v ms without any. Busy clients pause for up to %v ms.\n",
		plural(r.Restarts, "restart"), r.Every, r.Steady, r.Pause)
	for _, program := range slices.Sorted(maps.Keys(r.Programs)) {
		fmt.Fprintf(&b, "%s\n", r.Programs[program])
	}
	r.countsTable(&b)
	r.latencyTable(&b)
	r.restartTable(&b)
	r.reasonsTable(&b)
	for _, name := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintf(&b, "\nLeft out: %s: %s\n", name, r.LeftOut[name])
	}
	return b.String()
}

func (r results) clients() string {
	var parts []string
	for _, kind := range client.AllKinds {
		if r.Clients[kind] == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d %s", r.Clients[kind], kind))
	}
	return strings.Join(parts, ", ")
}

func (r results) countsTable(b *strings.Builder) {
	fmt.Fprint(b, "\nWhat the clients noticed:\n\n")
	row(b, "variant", "restarts", "requests", "failed", "of them before the first restart",
		"closed while idle", "told to close", "re-dialled", "pipelined, sent again", "left open", "RST sent")
	rule(b, 11)
	for _, v := range r.Variants {
		n := v.Counts
		row(b, v.Name, len(v.Restarts), n.Requests, n.Failed, v.Early, n.ClosedIdle, n.Told, n.Redialled, n.Resent, n.LeftOpen, v.resets())
	}
}

func (r results) latencyTable(b *strings.Builder) {
	fmt.Fprint(b, "\nLatency in milliseconds of the requests that take no time by themselves (busy, idle, short):\n\n")
	row(b, "variant", "steady p50", "p99", "p99.9", "max", "restarting p50", "p99", "p99.9", "max")
	rule(b, 9)
	for _, v := range r.Variants {
		s, t := v.Latency.Steady, v.Latency.Restarting
		row(b, v.Name, s.P50, s.P99, s.P999, s.Max, t.P50, t.P99, t.P999, t.Max)
	}
}

func (r results) restartTable(b *strings.Builder) {
	if !slices.ContainsFunc(r.Variants, func(v *result) bool { return len(v.Restarts) > 0 }) {
		return
	}
	fmt.Fprint(b, "\nFrom the restart signal, in milliseconds:\n\n")
	row(b, "variant", "first answer of the new process: median", "max", "end of the old one: median", "max")
	rule(b, 5)
	for _, v := range r.Variants {
		if len(v.Restarts) == 0 {
			continue
		}
		var answered, ended []milliseconds
		for _, one := range v.Restarts {
			answered, ended = append(answered, one.Answered), append(ended, one.Ended)
		}
		slices.Sort(answered)
		slices.Sort(ended)
		row(b, v.Name, median(answered), answered[len(answered)-1], median(ended), ended[len(ended)-1])
	}
}

func (r results) reasonsTable(b *strings.Builder) {
	heading := false
	for _, v := range r.Variants {
		for _, reason := range slices.Sorted(maps.Keys(v.Reasons)) {
			if !heading {
				fmt.Fprint(b, "\nFailed requests:\n\n")
				row(b, "variant", "client and reason", "requests")
				rule(b, 3)
				heading = true
			}
			row(b, v.Name, reason, v.Reasons[reason])
		}
	}
}

func row(b *strings.Builder, cells ...any) {
	for _, cell := range cells {
		if ms, ok := cell.(milliseconds); ok {
			cell = fmt.Sprintf("%.1f", ms)
		}
		fmt.Fprintf(b, "| %v ", cell)
	}
	b.WriteString("|\n")
}

func rule(b *strings.Builder, columns int) {
	b.WriteString("|---|" + strings.Repeat("---:|", columns-1) + "\n")
}

func median(sorted []milliseconds) milliseconds { return sorted[(len(sorted)-1)/2] }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// resets says how many RSTs the system has sent, if it tells.
func (r *result) resets() string {
	if r.Resets < 0 {
		return "?"
	}
	return fmt.Sprint(r.Resets)
}
