// Command bench restarts the same HTTP service in several ways, many times, under the load of clients that
// notice everything, and says what they noticed.
//
//	go run . -help
//
// It prints a table, and writes it (bench.md), all figures (bench.json) and a plot of latencies and re-dials
// over time with a mark at each restart (bench.svg).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/bench/client"
	"github.com/bhuthesh/mitosis/bench/variants"
)

func main() {
	variants.Serve(os.Args[1:])
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		stop()
		log.Fatal(err)
	}
}

// options are what the command line says.
type options struct {
	plan      plan
	variants  []variants.Variant
	directory string
}

func parse(args []string) (options, error) {
	var names []string
	for _, v := range variants.All() {
		names = append(names, v.Name)
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	chosen := flags.String("variants", strings.Join(names, ","), "what to measure, in this order")
	flags.IntVar(&o.plan.restarts, "restarts", 20, "restarts of each variant")
	flags.DurationVar(&o.plan.every, "every", 500*time.Millisecond, "time from one restart to the next; a new process that takes longer is waited for")
	flags.DurationVar(&o.plan.steady, "steady", 3*time.Second, "time under load before the first restart")
	clients := flags.Int("clients", 229, "number of clients, of all kinds together; at least one of each kind")
	parked := flags.Int("parked", 0, "number of further clients that make a request at the beginning and one at the end")
	flags.DurationVar(&o.plan.pause, "pause", 0, "longest pause of the busy clients after an answer; without one they take all the CPU there is")
	flags.Uint64Var(&o.plan.seed, "seed", 1, "seed of what is random in the clients")
	flags.StringVar(&o.directory, "out", "results", "directory for bench.md, bench.json and bench.svg")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "Restarts the same HTTP service in several ways under load, and counts what the clients notice.\n\nVariants:\n")
		for _, v := range variants.All() {
			fmt.Fprintf(flags.Output(), "  %-19s %s\n", v.Name, v.Description)
		}
		fmt.Fprint(flags.Output(), "\nFlags:\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.plan.restarts < 1 || o.plan.every <= 0 || o.plan.steady <= warmUp {
		return o, fmt.Errorf("-restarts and -every must be positive, -steady more than %v", warmUp)
	}
	o.plan.mix = client.NewMix(*clients)
	o.plan.mix[client.Parked] = *parked
	for _, name := range strings.Split(*chosen, ",") {
		v, err := variants.Named(strings.TrimSpace(name))
		if err != nil {
			return o, err
		}
		o.variants = append(o.variants, v)
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.directory, 0o755); err != nil {
		return err
	}
	if err := variants.Adopt(); err != nil {
		return err
	}
	results, err := measureAll(ctx, o, out)
	if len(results.Variants) == 0 || ctx.Err() != nil {
		return err
	}
	if _, tableErr := io.WriteString(out, "\n"+results.markdown()); tableErr != nil {
		return errors.Join(err, tableErr)
	}
	return errors.Join(err,
		os.WriteFile(filepath.Join(o.directory, "bench.md"), []byte(results.markdown()), 0o644),
		results.writeJSON(filepath.Join(o.directory, "bench.json")),
		results.writePlot(filepath.Join(o.directory, "bench.svg")),
	)
}

// measureAll measures the variants one after the other. One that fails does not keep the others from it.
func measureAll(ctx context.Context, o options, out io.Writer) (results, error) {
	all := newResults(o.plan, o.variants)
	var failures []error
	for _, v := range o.variants {
		if ctx.Err() != nil {
			break
		}
		if reason := v.Missing(); reason != "" {
			fmt.Fprintf(out, "%-19s left out: %s\n", v.Name, reason)
			all.LeftOut[v.Name] = reason
			continue
		}
		result, err := measure(ctx, v, o.plan)
		if err != nil {
			failures = append(failures, err)
			fmt.Fprintf(out, "%-19s %v\n", v.Name, err)
			if result == nil {
				all.LeftOut[v.Name] = err.Error()
				continue
			}
		}
		all.Variants = append(all.Variants, result)
		fmt.Fprintf(out, "%-19s %s\n", v.Name, result.line())
	}
	return all, errors.Join(append(failures, ctx.Err())...)
}
