//go:build unix

package mitosis

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// plan is what a process of a program under test does. The zero value is an
// application that opens nothing.
type plan struct {
	Fate    string            `json:",omitempty"` // what it does in place of Init; see fates
	Steps   map[string]string `json:",omitempty"` // what happens to it at a step; see application.step
	Options plannedOptions
	Sockets []plannedSocket `json:",omitempty"`
	States  []plannedState  `json:",omitempty"`

	Warm     bool          `json:",omitempty"` // Ready waits for the call "ready"
	Patience time.Duration `json:",omitempty"` // of the context of Ready, 0: for ever
	Join     time.Duration `json:",omitempty"` // limit of Init, for the fate "be faulty"
	Idle     bool          `json:",omitempty"` // nothing is accepted or read until the call "serve"
	Eager    bool          `json:",omitempty"` // it serves before Ready
	Deaf     bool          `json:",omitempty"` // Wait waits for the call "wait"
	Stay     bool          `json:",omitempty"` // it does not exit when its part is over
	Trace    bool          `json:",omitempty"` // it reports the steps of a split
	Strange  bool          `json:",omitempty"` // at each step it starts another program
}

// plannedOptions are the Options of a process.
type plannedOptions struct {
	Ready, Freeze, State, Commit time.Duration `json:",omitempty"`
	PIDFile                      string        `json:",omitempty"`
	NoSignals                    bool          `json:",omitempty"`
	Command                      string        `json:",omitempty"` // see commandHook
	CommandValue                 []string      `json:",omitempty"`
	KeepAlive                    time.Duration `json:",omitempty"`
}

// plannedSocket is a socket of a process.
type plannedSocket struct {
	Name    string
	How     string // see application.openSocket
	Network string `json:",omitempty"`
	Address string `json:",omitempty"`
}

// web is the plan of the common application: one listener and the number of
// requests that it has answered, over all generations.
func web(change ...func(*plan)) plan {
	p := plan{
		Sockets: []plannedSocket{{Name: "web", How: "listen", Network: "tcp", Address: "127.0.0.1:0"}},
		States:  []plannedState{{Name: "requests", Kind: "requests"}},
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

// at changes a plan: something happens to the process at a step.
func at(step, action string) func(*plan) {
	return func(p *plan) { p.Steps = map[string]string{step: action} }
}

// application is a process of a program under test, from the inside.
type application struct {
	plan    plan
	m       *Registry
	log     *slog.Logger
	ctx     context.Context // of Split
	cancel  context.CancelCauseFunc
	sockets map[string]any

	mu          sync.Mutex
	command     string // one of commandHooks
	steps       map[string]string
	held        map[string]chan struct{}
	requests    int
	values      map[string]*string
	locks       map[string]*sync.Mutex
	connections sync.WaitGroup
	loops       sync.WaitGroup // of accept and receive

	answering sync.WaitGroup

	sending sync.Mutex
	tests   *json.Encoder
}

var (
	errCancelled    = errors.New("cancelled by the test")
	errMisbehaviour = errors.New("misbehaviour")
)

// functions are what the tests can call in a process. Each file of tests adds the
// ones that it needs.
var functions = map[string]func(a *application, args []string) (string, error){}

// fates are what a process can do in place of Init.
var fates = map[string]func(a *application){}

// runProgram is the main function of a program under test.
func runProgram(config string) {
	address, name, _ := strings.Cut(config, ",")
	c, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests are gone:", err)
		os.Exit(100)
	}
	a := &application{
		sockets: map[string]any{}, values: map[string]*string{}, locks: map[string]*sync.Mutex{},
		steps: map[string]string{}, held: map[string]chan struct{}{}, tests: json.NewEncoder(c),
		log: slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	a.tests.Encode(map[string]any{"Program": name, "Pid": os.Getpid()})
	in := json.NewDecoder(bufio.NewReader(c))
	if err := in.Decode(&a.plan); err != nil {
		os.Exit(100)
	}
	for step, action := range a.plan.Steps {
		a.steps[step] = action
	}
	step = a.step
	go a.obey(in)
	a.run()
}

// report tells the tests of an event.
func (a *application) report(name, text string, err error) {
	a.send(event{Name: name, Text: text, Error: describeError(err)})
}

func (a *application) send(e event) {
	a.sending.Lock()
	defer a.sending.Unlock()
	a.tests.Encode(e)
}

// obey does what the tests say until they are gone.
func (a *application) obey(in *json.Decoder) {
	for {
		var c call
		if in.Decode(&c) != nil {
			os.Exit(101)
		}
		a.answering.Add(1)
		go func() {
			defer a.answering.Done()
			f := functions[c.Name]
			if f == nil {
				a.send(event{ID: c.ID, Error: describeError(fmt.Errorf("the application has no function %q", c.Name))})
				return
			}
			text, err := f(a, c.Args)
			a.send(event{ID: c.ID, Text: text, Error: describeError(err)})
		}()
	}
}

// run is the life of the process.
func (a *application) run() {
	if a.plan.Fate != "" {
		fates[a.plan.Fate](a)
	}
	m, err := Init(a.options())
	if err != nil {
		a.fail("init", err)
	}
	a.m = m
	a.report("generation", fmt.Sprint(m.Generation()), nil)
	for _, s := range a.plan.Sockets {
		if err := a.openSocket(s); err != nil {
			a.fail("open "+s.Name, err)
		}
	}
	for _, s := range a.plan.States {
		if err := m.State(s.Name, a.state(s)); err != nil {
			a.fail("state "+s.Name, err)
		}
	}
	if a.plan.Eager {
		a.serve()
	}
	if a.plan.Warm {
		a.hold("ready", "warm")
	}
	ctx := context.Background()
	if a.plan.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.plan.Patience)
		defer cancel()
	}
	if err := m.Ready(ctx); err != nil {
		a.fail("ready", err)
	}
	if !a.plan.Idle && !a.plan.Eager {
		a.serve()
	}
	a.report("serving", "", nil)
	if a.plan.Deaf {
		a.hold("wait", "deaf")
	}
	err = m.Wait(context.Background())
	a.report("waited", "", err)
	if a.plan.Stay {
		select {}
	}
	a.connections.Wait()
	m.Close()
	a.loops.Wait()
	a.answering.Wait()
	os.Exit(0)
}

// fail ends a process that cannot serve.
func (a *application) fail(what string, err error) {
	a.report(what, "", err)
	if a.plan.Stay {
		select {}
	}
	os.Exit(1)
}

// step is what happens at a step of a split.
func (a *application) step(name string) {
	a.mu.Lock()
	action := a.steps[name]
	delete(a.steps, name)
	a.mu.Unlock()
	if a.plan.Trace {
		a.report("step", name, nil)
	}
	if a.plan.Strange {
		found, err := startStranger()
		a.report("stranger", found, err)
	}
	switch action {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "stop":
		// The signal may stop this thread a little later than others.
		continued := make(chan os.Signal, 1)
		signal.Notify(continued, syscall.SIGCONT)
		a.report("stopped", name, nil)
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-continued
		a.report("continued", name, nil)
	case "exit":
		os.Exit(3)
	case "panic":
		panic("at " + name)
	case "hold":
		a.hold(name, "held")
	}
}

// hold reports an event and waits until the tests call "release".
func (a *application) hold(name, report string) {
	a.mu.Lock()
	released := make(chan struct{})
	a.held[name] = released
	a.mu.Unlock()
	a.report(report, name, nil)
	<-released
}

func init() {
	functions["release"] = func(a *application, args []string) (string, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		released := a.held[args[0]]
		if released == nil {
			return "", fmt.Errorf("nothing is held at %q", args[0])
		}
		delete(a.held, args[0])
		close(released)
		return "", nil
	}
	functions["at"] = func(a *application, args []string) (string, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.steps[args[0]] = args[1]
		return "", nil
	}
	functions["split"] = func(a *application, args []string) (string, error) {
		return "", a.m.Split(a.ctx, args...)
	}
	functions["cancel"] = func(a *application, _ []string) (string, error) {
		cancel := a.cancel
		a.ctx, a.cancel = context.WithCancelCause(context.Background())
		cancel(errCancelled)
		return "", nil
	}
	functions["serve"] = func(a *application, _ []string) (string, error) {
		a.serve()
		return "", nil
	}
	functions["change the command"] = func(a *application, args []string) (string, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.command = args[0]
		return "", nil
	}
	functions["be patient"] = func(a *application, _ []string) (string, error) {
		o := &a.m.options
		o.ReadyTimeout, o.FreezeTimeout, o.StateTimeout, o.CommitTimeout = bound, bound, bound, bound
		return "", nil
	}
	functions["generation"] = func(a *application, _ []string) (string, error) {
		return fmt.Sprint(a.m.Generation()), nil
	}
	functions["close registry"] = func(a *application, _ []string) (string, error) {
		return "", a.m.Close()
	}
	functions["exit"] = func(*application, []string) (string, error) {
		os.Exit(0)
		return "", nil
	}
	functions["wait until superseded"] = func(a *application, _ []string) (string, error) {
		<-a.m.Done()
		return "", nil
	}
}

// options returns the Options of the plan.
func (a *application) options() Options {
	planned := a.plan.Options
	o := Options{
		ReadyTimeout: planned.Ready, FreezeTimeout: planned.Freeze, StateTimeout: planned.State, CommitTimeout: planned.Commit,
		PIDFile: planned.PIDFile, Logger: a.log,
	}
	// Nothing may expire on a busy machine that a test does not want to expire.
	for _, limit := range []*time.Duration{&o.ReadyTimeout, &o.FreezeTimeout, &o.StateTimeout, &o.CommitTimeout} {
		if *limit == 0 {
			*limit = bound
		}
	}
	if planned.NoSignals {
		o.SplitSignals, o.StopSignals = []os.Signal{}, []os.Signal{}
	}
	if a.command = planned.Command; a.command != "" {
		o.Command = func(c *Command) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if hook := commandHooks[a.command]; hook != nil {
				return hook(c, planned.CommandValue)
			}
			return nil
		}
	}
	o.ListenConfig.KeepAlive = planned.KeepAlive
	return o
}

// commandHooks are what Options.Command can do.
var commandHooks = map[string]func(c *Command, value []string) error{}
