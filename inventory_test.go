//go:build unix

package mitosis

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// inventory is what a process has and could leak.
type inventory struct {
	Descriptors []string
	Goroutines  int
	Environment []string
}

func init() {
	functions["inventory"] = func(*application, []string) (string, error) {
		b, err := json.Marshal(takeInventory())
		return string(b), err
	}
	functions["stacks"] = func(*application, []string) (string, error) {
		b := make([]byte, 1<<20)
		return string(b[:runtime.Stack(b, true)]), nil
	}
}

func takeInventory() inventory {
	i := inventory{Goroutines: runtime.NumGoroutine(), Environment: os.Environ()}
	slices.Sort(i.Environment)
	for fd := range 4096 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			i.Descriptors = append(i.Descriptors, fmt.Sprintf("%s, close-on-exec %t", nameDescriptor(fd), flags&unix.FD_CLOEXEC != 0))
		}
	}
	return i
}

func (p *generation) inventory() (i inventory) {
	p.t.Helper()
	require.NoError(p.t, json.Unmarshal([]byte(p.do("inventory")), &i))
	return i
}

// hasOnly asserts that the process has no more than it had.
func (p *generation) hasOnly(before inventory) {
	p.t.Helper()
	now := p.inventory()
	assert.ElementsMatch(p.t, before.Descriptors, now.Descriptors, "descriptors")
	assert.Equal(p.t, before.Environment, now.Environment, "environment")
	assert.Empty(p.t, childrenOf(p.pid), "children, zombies included")
	if !assert.Eventually(p.t, func() bool {
		return p.inventory().Goroutines <= before.Goroutines
	}, bound, 5*time.Millisecond, "goroutines: %d were there before", before.Goroutines) {
		p.t.Log(p.do("stacks"))
	}
}

// bystander sees whether a failed split has changed anything.
type bystander struct {
	p      *generation
	old    *client
	before inventory
}

func watch(p *generation) *bystander {
	p.t.Helper()
	b := &bystander{p: p, old: p.dial("web")}
	b.old.ask("before")
	b.before = p.inventory()
	return b
}

// unharmed asserts that the process serves on a connection that it had and on a
// new one, with its state, that it has leaked nothing, and that its next split
// succeeds.
func (b *bystander) unharmed() {
	t, p := b.p.t, b.p
	t.Helper()
	served := answer{"after", 1, p.pid, 2}
	require.Equal(t, served, b.old.ask("after"))
	p.hasOnly(b.before)
	other := p.dial("web")
	served.Requests++
	require.Equal(t, served, other.ask("after"))
	b.succeeds()
}

func (b *bystander) succeeds() {
	t, p := b.p.t, b.p
	t.Helper()
	count := b.old.ask("last").Requests
	p.plans(web())
	next := p.split()
	require.Equal(t, answer{"next", 2, next.pid, count + 1}, next.dial("web").ask("next"))
	b.old.hangUp()
}
