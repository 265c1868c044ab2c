//go:build linux

package mitosis

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

func init() {
	functions["dial many"] = func(a *application, args []string) (string, error) {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		for i := range n {
			address := args[1+i%(len(args)-1)]
			if _, err := a.m.Dial(context.Background(), fmt.Sprint("peer/", i), "tcp", address); err != nil {
				return "", err
			}
		}
		return "", nil
	}
	// Each connection gets a goroutine that waits in Read.
	functions["read all"] = func(a *application, _ []string) (string, error) {
		conns := a.m.Conns("peer/")
		for _, c := range conns {
			go func() {
				var b [64]byte
				for {
					n, err := c.Read(b[:])
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
		return fmt.Sprint(len(conns)), nil
	}
	functions["bare transfer"] = func(a *application, _ []string) (string, error) {
		took, err := bareTransfer(a.m.Conns("peer/"))
		return fmt.Sprint(took.Nanoseconds()), err
	}
	functions["resident bytes"] = func(*application, []string) (string, error) {
		b, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			return "", err
		}
		pages, err := strconv.Atoi(strings.Fields(string(b))[1])
		return fmt.Sprint(pages * os.Getpagesize()), err
	}
}

// bareTransfer is the time that the descriptors of the connections need through a
// Unix socket and nothing else.
func bareTransfer(conns []*Conn) (took time.Duration, err error) {
	var pair [2]int
	if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(wire.MaxDescriptors*4))
	for some := range slices.Chunk(conns, wire.MaxDescriptors) {
		var fds []int
		for _, c := range some {
			if err := c.raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
				return 0, err
			}
		}
		began := time.Now()
		if err := unix.Sendmsg(pair[0], b, unix.UnixRights(fds...), nil, 0); err != nil {
			return 0, err
		}
		_, n, _, _, err := unix.Recvmsg(pair[1], b, oob, unix.MSG_CMSG_CLOEXEC)
		took += time.Since(began)
		if err != nil {
			return 0, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return 0, err
		}
		received := 0
		for _, message := range messages {
			fds, err := unix.ParseUnixRights(&message)
			if err != nil {
				return 0, err
			}
			received += len(fds)
			wire.CloseDescriptors(fds)
		}
		if received != len(some) {
			return 0, fmt.Errorf("%d descriptors of %d arrived", received, len(some))
		}
	}
	return took, nil
}

// holdPeers lets the process dial n connections, and holds their other ends.
func (p *generation) holdPeers(n int) (peers []net.Conn) {
	p.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(p.t, err)
	defer ln.Close()
	dialled := p.begin("dial many", fmt.Sprint(n), ln.Addr().String())
	for range n {
		c, err := ln.Accept()
		require.NoError(p.t, err)
		peers = append(peers, c)
	}
	_, err = p.answer(dialled)
	require.NoError(p.t, err)
	require.Equal(p.t, fmt.Sprint(n), p.do("read all"))
	return peers
}

// cutTimes are the phases in which everything stands still, in the log of a split.
type cutTimes struct{ Freeze, Transfer, Commit time.Duration }

func (c cutTimes) sum() time.Duration { return c.Freeze + c.Transfer + c.Commit }

func (p *generation) cutTimes() (c cutTimes) {
	p.t.Helper()
	line := p.awaitLog("mitosis: superseded", fmt.Sprintf(`"pid":%d`, p.pid))
	require.NoError(p.t, json.Unmarshal([]byte(line), &c))
	return c
}

func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkCut measures how long everything stands still in a split between
// processes with live connections, beside the bare transfer of their descriptors.
func BenchmarkCut(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("conns=", n), func(b *testing.B) {
			p := start(b, plan{})
			peers := p.holdPeers(n)
			defer func() {
				for _, c := range peers {
					c.Close()
				}
			}()
			var cut, freeze, transfer, commit, bare []time.Duration
			for b.Loop() {
				took, err := strconv.ParseInt(p.do("bare transfer"), 10, 64)
				require.NoError(b, err)
				bare = append(bare, time.Duration(took))
				next := p.split()
				times := p.cutTimes()
				cut = append(cut, times.sum())
				freeze, transfer, commit = append(freeze, times.Freeze), append(transfer, times.Transfer), append(commit, times.Commit)
				p = next
				require.Equal(b, fmt.Sprint(n), p.do("read all"))
			}
			for name, phase := range map[string][]time.Duration{
				"cut": cut, "freeze": freeze, "transfer": transfer, "commit": commit, "bare": bare,
			} {
				b.ReportMetric(float64(median(phase).Microseconds())/1000, name+"-ms")
			}
			b.ReportMetric(float64(median(cut))/float64(median(bare)), "ratio")
			for i, c := range peers { // all of them are alive
				c.SetDeadline(time.Now().Add(bound))
				_, err := fmt.Fprintf(c, "%10d", i)
				require.NoError(b, err)
				var answer int
				_, err = fmt.Fscan(io.LimitReader(c, 10), &answer)
				require.NoError(b, err)
				require.Equal(b, i, answer)
			}
		})
	}
}

// benchmarkPair returns a connection in a registry of its own, or bare, and its peer.
func benchmarkPair(b *testing.B, managed bool) (net.Conn, net.Conn) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	b.Cleanup(func() { peer.Close() })
	c, err := ln.Accept()
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	if !managed {
		return c, peer
	}
	return benchmarkManaged(b, c)("conn", c), peer
}

// benchmarkManaged returns AddConn of a new registry.
func benchmarkManaged(b *testing.B, c net.Conn) func(name string, c net.Conn) net.Conn {
	b.Helper()
	m, err := newInProcess(Options{Logger: slog.New(slog.DiscardHandler)}, inheritance{})
	require.NoError(b, err)
	b.Cleanup(func() { m.Close() })
	require.NoError(b, m.Ready(b.Context()))
	return func(name string, c net.Conn) net.Conn {
		managed, err := m.AddConn(name, c)
		require.NoError(b, err)
		return managed
	}
}

// benchmarkStream moves pieces over a managed and a bare connection by turns.
func benchmarkStream(b *testing.B, move func(c, peer net.Conn, piece []byte, pieces int) error) {
	for _, size := range []int{1 << 10, 32 << 10} {
		b.Run(fmt.Sprint("bytes=", size), func(b *testing.B) {
			managed, managedPeer := benchmarkPair(b, true)
			bare, barePeer := benchmarkPair(b, false)
			pieces := (16 << 20) / size
			if size == 1<<10 {
				pieces = (4 << 20) / size
			}
			piece := make([]byte, size)
			run := func(c, peer net.Conn) (time.Duration, uint64) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				began := time.Now()
				require.NoError(b, move(c, peer, piece, pieces))
				took := time.Since(began)
				runtime.ReadMemStats(&after)
				return took, after.Mallocs - before.Mallocs
			}
			run(managed, managedPeer)
			run(bare, barePeer)
			var ratios []float64
			var managedTime, bareTime time.Duration
			var managedAllocs, bareAllocs uint64
			for b.Loop() {
				m, ma := run(managed, managedPeer)
				n, na := run(bare, barePeer)
				ratios = append(ratios, float64(n)/float64(m))
				managedTime, bareTime = managedTime+m, bareTime+n
				managedAllocs, bareAllocs = managedAllocs+ma, bareAllocs+na
			}
			total := float64(size) * float64(pieces) * float64(len(ratios)) / 1e6
			b.ReportMetric(total/managedTime.Seconds(), "MB/s")
			b.ReportMetric(total/bareTime.Seconds(), "bare-MB/s")
			b.ReportMetric(float64(int64(managedAllocs)-int64(bareAllocs))/float64(pieces*len(ratios)), "extra-allocs/piece")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkConnRead measures Read while the peer writes as fast as it can.
func BenchmarkConnRead(b *testing.B) {
	benchmarkStream(b, func(c, peer net.Conn, piece []byte, pieces int) error {
		written := make(chan error, 1)
		go func() { written <- writePieces(peer, make([]byte, len(piece)), pieces) }()
		for range pieces {
			if _, err := io.ReadFull(c, piece); err != nil {
				return err
			}
		}
		return <-written
	})
}

// BenchmarkConnWrite measures Write while the peer reads as fast as it can.
func BenchmarkConnWrite(b *testing.B) {
	benchmarkStream(b, func(c, peer net.Conn, piece []byte, pieces int) error {
		read := make(chan error, 1)
		go func() {
			_, err := io.CopyN(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{peer}, int64(pieces*len(piece)))
			read <- err
		}()
		if err := writePieces(c, piece, pieces); err != nil {
			return err
		}
		return <-read
	})
}

func writePieces(c net.Conn, piece []byte, pieces int) error {
	for range pieces {
		if _, err := c.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkConnCall measures what Read and Write add to the system calls, without a
// second thread: one byte there and back.
func BenchmarkConnCall(b *testing.B) {
	for _, what := range []string{"read", "write"} {
		b.Run(what, func(b *testing.B) {
			managed, managedPeer := benchmarkPair(b, true)
			bare, barePeer := benchmarkPair(b, false)
			const calls = 2000
			piece := make([]byte, 64)
			run := func(c, peer net.Conn) time.Duration {
				from, to := peer, c
				if what == "write" {
					from, to = c, peer
				}
				var took time.Duration
				for range calls / 100 {
					began := time.Now()
					require.NoError(b, writePieces(from, piece, 100))
					written := time.Since(began)
					began = time.Now()
					for range 100 {
						_, err := io.ReadFull(to, piece)
						require.NoError(b, err)
					}
					if what == "read" {
						took += time.Since(began)
					} else {
						took += written
					}
				}
				return took
			}
			var ratios []float64
			var m, n []time.Duration
			for b.Loop() {
				m, n = append(m, run(managed, managedPeer)), append(n, run(bare, barePeer))
				ratios = append(ratios, float64(n[len(n)-1])/float64(m[len(m)-1]))
			}
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(float64(median(m))/calls, "ns/call")
			b.ReportMetric(float64(median(n))/calls, "bare-ns/call")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkConnMemory measures the memory of idle connections, each with a
// goroutine in Read. The peers are bare descriptors, which need none.
func BenchmarkConnMemory(b *testing.B) {
	const conns = 2000
	measure := func(manage func(string, net.Conn) net.Conn) float64 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		defer ln.Close()
		port := ln.Addr().(*net.TCPAddr).Port
		before := memoryInUse()
		var readers sync.WaitGroup
		var all []net.Conn
		var peers []int
		for i := range conns {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			require.NoError(b, err)
			peers = append(peers, fd)
			require.NoError(b, unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
			c, err := ln.Accept()
			require.NoError(b, err)
			if manage != nil {
				c = manage(fmt.Sprint("conn/", i), c)
			}
			all = append(all, c)
			readers.Add(1)
			go func() {
				defer readers.Done()
				var b [64]byte
				c.Read(b[:])
			}()
		}
		awaitParked(conns)
		used := memoryInUse() - before
		for _, fd := range peers {
			sys.CloseDescriptor(fd)
		}
		for _, c := range all {
			c.Close()
		}
		readers.Wait()
		return float64(used) / conns
	}
	measure(nil) // what the runtime never gives back is taken now
	for b.Loop() {
		bare := measure(nil)
		managed := measure(benchmarkManaged(b, nil))
		b.ReportMetric(bare, "bare-bytes/conn")
		b.ReportMetric(managed, "bytes/conn")
		b.ReportMetric(managed-bare, "extra-bytes/conn")
		b.ReportMetric(managed/bare, "ratio")
	}
}

// awaitParked waits until the goroutines are in the network poller.
func awaitParked(n int) {
	deadline := time.Now().Add(bound)
	stacks := make([]byte, 64<<20)
	for time.Now().Before(deadline) {
		if strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "[IO wait") >= n {
			return
		}
	}
}

func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
