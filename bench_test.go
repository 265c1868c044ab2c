//go:build linux

package mitosis

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// benchmarkVariable makes this binary one of the measured programs, before main:
//
//	byte        writes one byte to descriptor 3 and exits
//	reader      reads the pattern from descriptor 3
//	listeners N an application with N listeners
//	state       an application with one large state
const benchmarkVariable = "PROGRAM_TO_MEASURE"

// The pattern is patternBlocks blocks, each written with one Write.
const (
	patternBlock  = 256 << 10
	patternBlocks = 1 << 30 / patternBlock
)

func init() {
	program, ok := os.LookupEnv(benchmarkVariable)
	if !ok {
		return
	}
	name, number, _ := strings.Cut(program, " ")
	var err error
	switch name {
	case "byte":
		_, err = os.NewFile(3, "pipe").Write([]byte{1})
	case "reader":
		err = readBare()
	case "listeners":
		var n int
		if n, err = strconv.Atoi(number); err == nil {
			err = (&measured{listeners: n, bare: startBare}).run()
		}
	case "state":
		pattern := newPattern()
		err = (&measured{pattern: pattern, bare: pattern.sendBare}).run()
	default:
		err = errors.New("unknown program")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, program+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// measurement is what the processes say of one split, each its part.
type measurement struct {
	Pid    int                      `json:",omitempty"` // of the new process
	Bare   time.Duration            `json:",omitempty"`
	Phases map[string]time.Duration `json:",omitempty"`

	SaveBegan, LoadEnded time.Duration `json:",omitempty"` // by the system's monotonic clock
	OldGrowth, NewGrowth int64         `json:",omitempty"` // of the peak memory, in bytes
}

// commit is the time from Split to the commit.
func (m measurement) commit() (total time.Duration) {
	for _, phase := range []string{"start", "warm-up", "freeze", "transfer", "commit"} {
		total += m.Phases[phase]
	}
	return total
}

// measured is a generation of an application that is measured.
type measured struct {
	listeners int
	pattern   *pattern
	bare      func() (time.Duration, error) // what a split is compared with

	phases map[string]time.Duration
}

// run serves until it is told to split, with one byte, or to end.
func (a *measured) run() error {
	m, err := Init(Options{Logger: slog.New(a), SplitSignals: []os.Signal{}, StopSignals: []os.Signal{}})
	if err != nil {
		return err
	}
	for i := range a.listeners {
		ln, err := m.Listen(fmt.Sprintf("listener %d", i), "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if i == 0 {
			go acceptAll(ln)
		}
	}
	if a.pattern != nil {
		if err := m.State("pattern", a.pattern); err != nil {
			return err
		}
	}
	if err := m.Ready(context.Background()); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	arrived := measurement{Pid: os.Getpid()}
	if a.pattern != nil {
		arrived.LoadEnded, arrived.NewGrowth = a.pattern.loadEnded, a.pattern.growth
	}
	if err := out.Encode(arrived); err != nil {
		return err
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return m.Close()
	}
	var left measurement
	if left.Bare, err = a.bare(); err != nil {
		return err
	}
	if err := m.Split(context.Background()); err != nil {
		return err
	}
	left.Phases = a.phases
	if a.pattern != nil {
		left.SaveBegan, left.OldGrowth = a.pattern.saveBegan, peakMemory()-a.pattern.peakBefore
	}
	if err := out.Encode(left); err != nil {
		return err
	}
	return m.Close()
}

func acceptAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// As a slog.Handler it keeps the durations of the phases.
func (a *measured) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (a *measured) WithAttrs([]slog.Attr) slog.Handler               { return a }
func (a *measured) WithGroup(string) slog.Handler                    { return a }

func (a *measured) Handle(_ context.Context, record slog.Record) error {
	if record.Message != "mitosis: superseded" {
		return nil
	}
	a.phases = map[string]time.Duration{}
	record.Attrs(func(attr slog.Attr) bool {
		if attr.Value.Kind() == slog.KindDuration {
			a.phases[attr.Key] = attr.Value.Duration()
		}
		return true
	})
	return nil
}

// startBare is the time from the start of this binary to a byte from it.
func startBare() (time.Duration, error) {
	began := time.Now()
	r, end, err := startMeasured("byte")
	if err != nil {
		return 0, err
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, end()
}

// startMeasured starts this binary with the writing end of a pipe as descriptor 3.
func startMeasured(program string) (r *os.File, end func() error, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	p, err := startWith(program, w)
	if err != nil {
		return nil, nil, err
	}
	return r, func() error { return errors.Join(r.Close(), await(p)) }, nil
}

// startWith starts this binary with descriptors from 3 on, which it closes here.
func startWith(program string, files ...*os.File) (*os.Process, error) {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, benchmarkVariable+"=") })
	p, err := os.StartProcess(origin.path, []string{origin.path}, &os.ProcAttr{
		Env:   append(env, benchmarkVariable+"="+program),
		Files: append([]*os.File{os.Stdin, os.Stdout, os.Stderr}, files...),
	})
	for _, f := range files {
		f.Close()
	}
	return p, err
}

func await(p *os.Process) error {
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = errors.New(state.String())
	}
	return err
}

// pattern is a state of patternBlocks blocks. A block is its number and the same
// bytes as in all others, of which each 16th is looked at closely.
type pattern struct {
	block []byte
	sum   uint32

	saveBegan, loadEnded time.Duration
	peakBefore, growth   int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newPattern() *pattern {
	p := &pattern{block: make([]byte, patternBlock)}
	rand.NewChaCha8([32]byte{1}).Read(p.block)
	p.sum = crc32.Checksum(p.block[8:], castagnoli)
	return p
}

func (p *pattern) Save(w io.Writer) error {
	p.peakBefore = peakMemory()
	p.saveBegan = monotonic()
	for n := range uint64(patternBlocks) {
		binary.BigEndian.PutUint64(p.block, n)
		if _, err := w.Write(p.block); err != nil {
			return err
		}
	}
	return nil
}

func (p *pattern) Load(r io.Reader) error {
	before := peakMemory()
	for n := range uint64(patternBlocks) {
		if _, err := io.ReadFull(r, p.block); err != nil {
			return err
		}
		if binary.BigEndian.Uint64(p.block) != n || n%16 == 0 && crc32.Checksum(p.block[8:], castagnoli) != p.sum {
			return fmt.Errorf("block %d is damaged", n)
		}
	}
	if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
		return fmt.Errorf("%d bytes too many, %w", n, err)
	}
	p.loadEnded = monotonic()
	p.growth = peakMemory() - before
	return nil
}

// sendBare is how long the pattern takes to another process without this package.
func (p *pattern) sendBare() (time.Duration, error) {
	data, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	answers, answer, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	child, err := startWith("reader", data, answer)
	if err != nil {
		return 0, err
	}
	defer answers.Close()
	in := json.NewDecoder(answers)
	var ready bool
	if err := in.Decode(&ready); err != nil {
		return 0, err
	}
	if err := p.Save(w); err != nil {
		return 0, err
	}
	w.Close()
	var ended time.Duration
	if err := in.Decode(&ended); err != nil {
		return 0, err
	}
	return ended - p.saveBegan, await(child)
}

// readBare is the other side of sendBare.
func readBare() error {
	data, answer := os.NewFile(3, "data"), json.NewEncoder(os.NewFile(4, "answer"))
	p := newPattern()
	if err := answer.Encode(true); err != nil {
		return err
	}
	if err := p.Load(data); err != nil {
		return err
	}
	return answer.Encode(p.loadEnded)
}

// monotonic is a time that processes can compare.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return time.Duration(now.Nano())
}

// peakMemory is the most that this process has had resident, in bytes.
func peakMemory() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(line)), " kB"), 10, 64)
	if err != nil {
		panic(err)
	}
	return kilobytes << 10
}

// measuredChain are the generations of a measured program, seen from the benchmark.
type measuredChain struct {
	b     *testing.B
	first *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
	pid   int
}

func startChain(b *testing.B, program string) *measuredChain {
	b.Helper()
	executable, err := os.Executable()
	require.NoError(b, err)
	c := &measuredChain{b: b, first: exec.Command(executable)}
	c.first.Env = append(os.Environ(), benchmarkVariable+"="+program)
	c.first.Stderr = os.Stderr
	c.in, err = c.first.StdinPipe()
	require.NoError(b, err)
	out, err := c.first.StdoutPipe()
	require.NoError(b, err)
	c.out = json.NewDecoder(out)
	require.NoError(b, c.first.Start())
	var arrived measurement
	b.Cleanup(func() {
		c.in.Close()
		c.reap()
	})
	require.NoError(b, c.out.Decode(&arrived))
	c.pid = arrived.Pid
	return c
}

// split lets the present generation measure, and waits for its end.
func (c *measuredChain) split() (m measurement) {
	c.b.Helper()
	_, err := c.in.Write([]byte{'\n'})
	require.NoError(c.b, err)
	for range 2 { // one is from the old process, one from the new one
		require.NoError(c.b, c.out.Decode(&m))
	}
	c.reap()
	c.pid = m.Pid
	return m
}

// reap waits for the end of the present process, which leaves its child to this one.
func (c *measuredChain) reap() {
	pid := c.pid
	if pid == 0 {
		pid = c.first.Process.Pid
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			require.NoError(c.b, err)
			break
		}
	}
	require.Zero(c.b, status.ExitStatus())
}

// reportMedian reports the middle one of some values, and returns it.
func reportMedian[T int64 | time.Duration | float64](b *testing.B, unit string, values []T) float64 {
	slices.Sort(values)
	middle := float64(values[len(values)/2])
	b.ReportMetric(middle, unit)
	return middle
}

// BenchmarkSplit compares a split, up to the commit, with the bare start of the
// same binary.
func BenchmarkSplit(b *testing.B) {
	chain := startChain(b, "listeners 1")
	var splits, bares []time.Duration
	phases := map[string][]time.Duration{}
	for b.Loop() {
		m := chain.split()
		splits, bares = append(splits, m.commit()), append(bares, m.Bare)
		for name, d := range m.Phases {
			phases[name] = append(phases[name], d)
		}
	}
	for name, d := range phases {
		reportMedian(b, name+"-ns", d)
	}
	b.ReportMetric(reportMedian(b, "split-ns", splits)/reportMedian(b, "bare-ns", bares), "ratio")
}

// BenchmarkState compares a state of 1 GiB with the same bytes through a pipe
// between two processes.
func BenchmarkState(b *testing.B) {
	chain := startChain(b, "state")
	b.SetBytes(patternBlock * patternBlocks)
	var states, bares []time.Duration
	var oldGrowth, newGrowth int64
	for b.Loop() {
		m := chain.split()
		states, bares = append(states, m.LoadEnded-m.SaveBegan), append(bares, m.Bare)
		oldGrowth, newGrowth = max(oldGrowth, m.OldGrowth), max(newGrowth, m.NewGrowth)
	}
	state, bare := reportMedian(b, "state-ns", states), reportMedian(b, "bare-ns", bares)
	b.ReportMetric(bare/state, "ratio")
	b.ReportMetric(float64(oldGrowth)/(1<<20), "old-MiB")
	b.ReportMetric(float64(newGrowth)/(1<<20), "new-MiB")
}

// BenchmarkListeners measures what each of 1,000 named listeners adds to a split.
func BenchmarkListeners(b *testing.B) {
	const many = 1000
	one, all := startChain(b, "listeners 1"), startChain(b, fmt.Sprintf("listeners %d", many))
	var few, lots []time.Duration
	for b.Loop() {
		few, lots = append(few, one.split().commit()), append(lots, all.split().commit())
	}
	with, without := reportMedian(b, "split-ns", lots), reportMedian(b, "one-listener-ns", few)
	b.ReportMetric((with-without)/(many-1), "ns/listener")
}
