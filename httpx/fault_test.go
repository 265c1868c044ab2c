//go:build unix

package httpx_test

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/internal/hook"
)

// faultVariable tells a new process what to do at which step.
const faultVariable = "HTTPX_TEST_FAULT"

func haveFault(fault string) {
	action, at, _ := strings.Cut(fault, " at ")
	hook.Step = func(step string) {
		if step != at {
			return
		}
		fmt.Printf("fault %s\n", fault)
		switch action {
		case "kill":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "stop":
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			select {} // the signal may take a moment
		case "exit":
			os.Exit(0)
		case "panic":
			panic(fault)
		}
	}
}

// Whatever a new process does before it has taken over, the connections of clients
// stay where they are, and go on to the next one that does well.
func TestKeepAliveConnectionsOutliveEveryFaultOfANewProcess(t *testing.T) {
	t.Parallel()
	const limit = 400 * time.Millisecond
	before := hook.NewSteps[:slices.Index(hook.NewSteps, "new: ACK sent")]
	require.Greater(t, len(before), 5)
	for _, action := range []string{"kill", "stop", "exit", "panic"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			p := plan{}
			if action == "stop" {
				p.Limit = limit
			}
			r := start(t, p)
			first := r.generation()
			idle, silent, busy := r.dial(), r.dial(), r.dial()
			require.Equal(t, first, idle.ask())
			end := busy.begin()
			for _, step := range before {
				if step == "new: STATE received" {
					continue // there is no state
				}
				fault := action + " at " + step
				arm := r.dial()
				arm.send("GET /fault?action=" + action + "&step=" + url.QueryEscape(step) + " HTTP/1.1\r\nHost: x\r\n\r\n")
				pid, _, _ := arm.answer()
				require.Equal(t, first, pid)
				failed := r.count("split failed, serving on")
				require.NoError(t, syscall.Kill(first, syscall.SIGHUP))
				r.line("fault %s", fault)
				r.await("the split has failed", func() bool { return r.countLocked("split failed, serving on") > failed })
				require.Equal(t, first, idle.ask(), fault)
				require.Equal(t, first, arm.ask(), fault)
				require.Equal(t, first, r.dial().ask(), fault)
			}
			idle.send("GET /fault HTTP/1.1\r\nHost: x\r\n\r\n") // disarm
			idle.answer()
			second := r.restart()
			idle.requireMoved(second)
			silent.requireMoved(second)
			end()
			busy.requireMoved(second)
			r.gone(first)
		})
	}
}

// A new process that is stopped when it has taken over takes no connection. The old
// one ends all the same.
func TestTheOldProcessEndsAtItsLimitThoughTheNewOneTakesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, plan{DrainTimeout: 500 * time.Millisecond})
	first := r.generation()
	const many = 500 // more than the control link holds
	clients := make([]*client, many)
	for i := range clients {
		clients[i] = r.dial()
		require.Equal(t, first, clients[i].ask())
	}
	clients[0].send("GET /fault?action=stop&step=" + url.QueryEscape("new: ACK sent") + " HTTP/1.1\r\nHost: x\r\n\r\n")
	clients[0].answer()
	require.NoError(t, syscall.Kill(first, syscall.SIGHUP))
	var second int
	r.await("the new process", func() bool {
		for _, line := range r.lines {
			if _, rest, ok := strings.Cut(line, " child="); ok && strings.Contains(line, "new process started") {
				fmt.Sscan(rest, &second)
			}
		}
		return second > 0
	})
	t.Cleanup(func() { syscall.Kill(second, syscall.SIGKILL) })
	require.Contains(t, r.line("cut %d", first), "busy 0")
	r.gone(first)
}

// count returns how many lines contain text.
func (r *running) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.countLocked(text)
}

func (r *running) countLocked(text string) (n int) {
	for _, line := range r.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
