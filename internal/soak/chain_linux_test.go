package soak

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// bound is how long an event may take that has to come.
const bound = 60 * time.Second

// logTail is how many lines of the service's log a failure shows.
const logTail = 150

// chain is a service with all its generations, seen from the test.
type chain struct {
	first *exec.Cmd
	fail  func(format string, values ...any)

	mu          sync.Mutex
	changed     sync.Cond
	log         []string     // the last lines
	born        int          // processes, those of failed splits too
	orphans     map[int]bool // processes that may become children of this one
	newest, pid int          // generation
	unfinished  map[int]int  // pids of generations that have not ended, and their numbers
	addresses   []string
	ended       bool // nobody has the output any more
}

// startChain starts the service. fail is called when it breaks a promise.
func startChain(t *testing.T, p plan, fail func(string, ...any)) *chain {
	text, err := json.Marshal(p)
	require.NoError(t, err)
	executable, err := os.Executable()
	require.NoError(t, err)
	c := &chain{first: exec.Command(executable), fail: fail, orphans: map[int]bool{}, unfinished: map[int]int{}}
	c.changed.L = &c.mu
	c.first.Env = append(os.Environ(), planVariable+"="+string(text), "TMPDIR="+p.Dir, "GORACE=atexit_sleep_ms=0")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	c.first.Stdout, c.first.Stderr = w, w
	require.NoError(t, c.first.Start())
	w.Close()
	go c.read(r)
	go c.first.Wait()
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			c.reap()
		}
	}()
	t.Cleanup(func() {
		c.killAll()
		c.await("the end of the service", func() bool { return c.ended })
		signal.Stop(died)
		close(died)
	})
	require.True(t, c.await("the first generation", func() bool { return c.newest == 1 }), c.tail())
	return c
}

// read reads what the generations say.
func (c *chain) read(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c.take(lines.Text())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.changed.Broadcast()
}

func (c *chain) take(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.changed.Broadcast()
	c.log = append(c.log[max(0, len(c.log)-logTail):], line)
	word, rest, _ := strings.Cut(line, " ")
	fields := append(strings.Fields(rest), "")
	pid, _ := strconv.Atoi(fields[0])
	switch word {
	case "born":
		c.born++
		c.orphans[pid] = true
	case "serving":
		generation, _ := strconv.Atoi(fields[1])
		addresses := fields[2 : len(fields)-1]
		if generation != c.newest+1 || c.newest > 0 && !slices.Equal(addresses, c.addresses) {
			go c.fail("generation %d says: %s", c.newest+1, line)
		}
		c.newest, c.pid, c.addresses = generation, pid, addresses
		c.unfinished[pid] = generation
	case "ended":
		delete(c.unfinished, pid)
	case "BROKEN", "failed", "panic:", "WARNING:", "fatal":
		if word != "failed" || c.unfinished[pid] > 0 {
			go c.fail("the service says: %s", line)
		}
	}
}

// reap reaps orphans. A generation is a child of this process when the generation
// before it has gone.
func (c *chain) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid := range c.orphans {
		if pid == c.first.Process.Pid {
			continue
		}
		var status unix.WaitStatus
		switch n, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); {
		case n == pid:
			delete(c.orphans, pid)
			if generation := c.unfinished[pid]; generation > 0 {
				go c.diedBadly(pid, generation, status)
			}
		case err == unix.ECHILD:
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
				delete(c.orphans, pid) // its parent has reaped it
			}
		}
	}
}

// diedBadly finds out whether a generation that has ended has said so.
func (c *chain) diedBadly(pid, generation int, status unix.WaitStatus) {
	if !c.await("", func() bool { return c.unfinished[pid] == 0 }) {
		c.fail("generation %d (pid %d) ended: exit status %d, signal %v", generation, pid, status.ExitStatus(), status.Signal())
	}
}

// await waits until ok, and returns false if that does not come.
func (c *chain) await(what string, ok func() bool) bool {
	timer := time.AfterFunc(bound, func() { c.mu.Lock(); defer c.mu.Unlock(); c.changed.Broadcast() })
	defer timer.Stop()
	began := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() {
		if c.ended || time.Since(began) >= bound {
			if what != "" {
				go c.fail("%s: not within %v", what, bound)
			}
			return false
		}
		c.changed.Wait()
	}
	return true
}

// present returns the newest generation and how many processes there have been.
func (c *chain) present() (generation, pid, born int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest, c.pid, c.born
}

func (c *chain) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.log, "\n")
}

// signal signals the newest generation, and returns its number.
func (c *chain) signal(sig syscall.Signal, times int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range times {
		syscall.Kill(c.pid, sig)
	}
	return c.newest
}

// killAll ends what is left, by force.
func (c *chain) killAll() {
	for pid := range descendants() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// descendants are the processes that this one has started, directly or not, zombies
// included, with their state.
func descendants() map[int]string {
	parents, states := map[int]int{}, map[int]string{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parents[pid], _ = strconv.Atoi(fields[1])
		states[pid] = fields[0]
	}
	found := map[int]string{}
	for pid := range parents {
		for ancestor := parents[pid]; ancestor != 0; ancestor = parents[ancestor] {
			if ancestor == os.Getpid() {
				found[pid] = states[pid]
				break
			}
		}
	}
	return found
}
