//go:build unix

package mitosis

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchmarkVariable makes this binary one of the processes that a benchmark
// compares: see runBenchmarkProcess.
const benchmarkVariable = "MITOSIS_BENCHMARK_PROCESS"

func init() {
	if role, ok := os.LookupEnv(benchmarkVariable); ok {
		if err := runBenchmarkProcess(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// runBenchmarkProcess is the program of the other process. It runs before the
// package's other tests are set up, and in a split before main.
func runBenchmarkProcess(role string) error {
	switch role {
	case "bare start":
		_, err := os.NewFile(3, "pipe").Write([]byte{1})
		return err
	case "bare pipe":
		return (&streamedState{size: benchmarkStateSize}).Load(os.NewFile(3, "pipe"))
	}
	m, err := Init(Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if role == "listeners" {
		if err := listenMany(m); err != nil {
			return err
		}
	} else if _, err := m.Listen("web", "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if role == "state" {
		if err := m.State("big", &streamedState{size: benchmarkStateSize}); err != nil {
			return err
		}
	}
	if err := m.Ready(context.Background()); err != nil {
		return err
	}
	if role == "state" {
		return os.WriteFile(os.Getenv("MITOSIS_BENCHMARK_PEAK"), []byte(fmt.Sprint(peakMemory())), 0o600)
	}
	return nil
}

// benchmarkRegistry splits like a program, again and again: what it hands over to
// ends at once, and it starts over with a registry of its own.
func benchmarkRegistry(b *testing.B, role string, prepare func(*Registry) error) (*Registry, *phaseTimes) {
	b.Helper()
	times := &phaseTimes{sums: map[string]time.Duration{}}
	m, err := Init(Options{
		Logger:       slog.New(times),
		SplitSignals: []os.Signal{},
		StopSignals:  []os.Signal{},
		Command: func(c *Command) error {
			c.Env = append(c.Env, benchmarkVariable+"="+role)
			return nil
		},
	})
	require.NoError(b, err)
	require.NoError(b, prepare(m))
	require.NoError(b, m.Ready(b.Context()))
	return m, times
}

// phaseTimes is a log handler that adds up how long the phases took.
type phaseTimes struct {
	mu   sync.Mutex
	sums map[string]time.Duration
}

func (p *phaseTimes) Enabled(context.Context, slog.Level) bool { return true }
func (p *phaseTimes) WithAttrs([]slog.Attr) slog.Handler       { return p }
func (p *phaseTimes) WithGroup(string) slog.Handler            { return p }
func (p *phaseTimes) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "mitosis: superseded" {
		p.mu.Lock()
		defer p.mu.Unlock()
		r.Attrs(func(a slog.Attr) bool {
			if a.Value.Kind() == slog.KindDuration {
				p.sums[a.Key] += a.Value.Duration()
			}
			return true
		})
	}
	return nil
}

func (p *phaseTimes) report(b *testing.B) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for phase, sum := range p.sums {
		b.ReportMetric(float64(sum.Nanoseconds())/float64(b.N), phase+"-ns/op")
	}
}

// bareStart is the time until the same binary, started anew, has written a byte.
func bareStart(b *testing.B) time.Duration {
	b.Helper()
	r, w, err := os.Pipe()
	require.NoError(b, err)
	defer r.Close()
	began := time.Now()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchmarkVariable+"=bare start")
	cmd.ExtraFiles = []*os.File{w}
	require.NoError(b, cmd.Start())
	w.Close()
	_, err = r.Read(make([]byte, 1))
	took := time.Since(began)
	require.NoError(b, err)
	require.NoError(b, cmd.Wait())
	return took
}

// BenchmarkSplit measures the time from Split to its return, for an application
// with one listener, beside the bare start of the same binary.
func BenchmarkSplit(b *testing.B) {
	var bare, split time.Duration
	all := &phaseTimes{sums: map[string]time.Duration{}}
	for range b.N {
		bare += bareStart(b)
		m, times := benchmarkRegistry(b, "split", func(m *Registry) error {
			_, err := m.Listen("web", "tcp", "127.0.0.1:0")
			return err
		})
		began := time.Now()
		require.NoError(b, m.Split(b.Context()))
		split += time.Since(began)
		m.Close()
		for phase, d := range times.sums {
			all.sums[phase] += d
		}
	}
	all.report(b)
	b.ReportMetric(float64(bare.Nanoseconds())/float64(b.N), "bare-ns/op")
	b.ReportMetric(float64(split)/float64(bare), "ratio")
}

const manyListeners = 1000

func listenMany(m *Registry) error {
	for i := range manyListeners {
		if _, err := m.Listen(fmt.Sprint("listener ", i), "tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkListeners measures what each of 1,000 listeners adds to a split.
func BenchmarkListeners(b *testing.B) {
	var split time.Duration
	for range b.N {
		m, _ := benchmarkRegistry(b, "listeners", listenMany)
		began := time.Now()
		require.NoError(b, m.Split(b.Context()))
		split += time.Since(began)
		m.Close()
	}
	b.ReportMetric(float64(split.Nanoseconds())/float64(b.N)/manyListeners, "ns/listener")
}

const (
	benchmarkStateSize  = 1 << 30
	benchmarkStateChunk = 64 << 10
)

// streamedState is a state that is never in memory: chunks that say their number.
type streamedState struct{ size int64 }

func (s *streamedState) Save(w io.Writer) error {
	chunk := bytes.Repeat([]byte{'x'}, benchmarkStateChunk)
	for i := range s.size / benchmarkStateChunk {
		copy(chunk, fmt.Sprintf("%016d", i))
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

func (s *streamedState) Load(r io.Reader) error {
	chunk := make([]byte, benchmarkStateChunk)
	for i := range s.size / benchmarkStateChunk {
		if _, err := io.ReadFull(r, chunk); err != nil {
			return err
		}
		if string(chunk[:16]) != fmt.Sprintf("%016d", i) {
			return fmt.Errorf("chunk %d begins with %q", i, chunk[:16])
		}
	}
	if n, err := r.Read(chunk); n != 0 || err != io.EOF {
		return fmt.Errorf("%d bytes too many, %v", n, err)
	}
	return nil
}

// barePipe is the time in which the same bytes go to another process.
func barePipe(b *testing.B) time.Duration {
	b.Helper()
	r, w, err := os.Pipe()
	require.NoError(b, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchmarkVariable+"=bare pipe")
	cmd.ExtraFiles = []*os.File{r}
	cmd.Stderr = os.Stderr
	require.NoError(b, cmd.Start())
	r.Close()
	began := time.Now()
	require.NoError(b, (&streamedState{size: benchmarkStateSize}).Save(w))
	w.Close()
	require.NoError(b, cmd.Wait())
	return time.Since(began)
}

// BenchmarkState measures 1 GiB of state from Save to Load, beside the same bytes
// through a bare pipe, and how far the memory of the processes grows at its peak.
func BenchmarkState(b *testing.B) {
	b.SetBytes(benchmarkStateSize)
	peak := b.TempDir() + "/peak"
	b.Setenv("MITOSIS_BENCHMARK_PEAK", peak)
	var bare, transfer time.Duration
	var grown, child int
	for range b.N {
		bare += barePipe(b)
		m, times := benchmarkRegistry(b, "state", func(m *Registry) error {
			return m.State("big", &streamedState{size: benchmarkStateSize})
		})
		before := peakMemory()
		require.NoError(b, m.Split(b.Context()))
		grown = max(grown, peakMemory()-before)
		transfer += times.sums["transfer"]
		m.Close()
		if text, err := os.ReadFile(peak); err == nil {
			fmt.Sscan(string(text), &child)
		}
	}
	b.ReportMetric(float64(bare)/float64(transfer), "ratio")
	b.ReportMetric(float64(grown)/1024, "old-grown-MiB")
	b.ReportMetric(float64(child)/1024, "new-peak-MiB")
}

// peakMemory is the largest resident size of this process so far, in KiB; 0 where
// there is no /proc.
func peakMemory() int {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		var n int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &n); err == nil {
			return n
		}
	}
	return 0
}
