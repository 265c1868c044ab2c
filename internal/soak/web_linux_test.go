package soak

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("POST /split", func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result := outcome{Pid: os.Getpid(), Generation: s.m.Generation()}
		if o.Fault == hangs && s.order.Patience == 0 {
			result.Error = patient
		} else if err := s.split(o); err != nil {
			result.Error = err.Error()
		}
		json.NewEncoder(w).Encode(result)
	})
	mux.HandleFunc("POST /inventory", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(s.inventory())
	})
	return mux
}

// patient says that this generation would wait too long for a process that hangs: a
// signal has replaced the one that would not.
const patient = "not impatient"

// outcome is that of an order.
type outcome struct {
	Pid, Generation int
	Error           string
}

// echo answers with the number of the request, its checksum and its body.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	sum := fmt.Sprintf("%08x", crc32.ChecksumIEEE(body))
	if err != nil || sum != r.Header.Get("X-Sum") {
		broken("request %s: %d bytes, checksum %s, said to be %s, error %v", r.Header.Get("X-Number"), len(body), sum, r.Header.Get("X-Sum"), err)
		http.Error(w, "broken", http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Number", r.Header.Get("X-Number"))
	w.Header().Set("X-Sum", sum)
	w.Write(body)
}

// stream answers slowly.
func stream(w http.ResponseWriter, r *http.Request) {
	lines, _ := strconv.Atoi(r.FormValue("lines"))
	pause, _ := time.ParseDuration(r.FormValue("pause"))
	padding, _ := strconv.Atoi(r.FormValue("size"))
	w.Header().Set("X-Number", r.Header.Get("X-Number"))
	for i := range lines {
		fmt.Fprintf(w, "%d %s\n", i, strings.Repeat("s", padding))
		http.NewResponseController(w).Flush()
		<-time.After(pause) // the work that takes so long
	}
}

// inventory is what a process has.
type inventory struct {
	Pid, Generation int
	RSS             int      // resident memory in KiB
	Descriptors     []string // without what differs from process to process
	Goroutines      int
	Hearing         bool // older processes are still there
	Peers           int
	Lines           uint64
	Questions       uint64
	Environment     []string
	Stacks          string
}

var differing = regexp.MustCompile(`\d+`)

func (s *service) inventory() inventory {
	i := inventory{Pid: os.Getpid(), Generation: s.m.Generation(), Environment: os.Environ()}
	for n := range s.shards {
		shard := &s.shards[n]
		shard.mu.Lock()
		i.Peers += len(shard.Book.Peers)
		i.Lines += shard.Book.Lines
		shard.mu.Unlock()
	}
	s.questions.mu.Lock()
	i.Questions = s.questions.Count.In
	s.questions.mu.Unlock()
	i.Goroutines = runtime.NumGoroutine()
	stacks := make([]byte, 1<<20)
	i.Stacks = string(stacks[:runtime.Stack(stacks, true)])
	i.Hearing = strings.Contains(i.Stacks, "mitosis.pump") || strings.Contains(i.Stacks, "hearing).run")
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil {
			i.Descriptors = append(i.Descriptors, differing.ReplaceAllString(name, "#"))
		}
	}
	slices.Sort(i.Descriptors)
	debug.FreeOSMemory()
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fmt.Sscan(rest, &i.RSS)
	return i
}
