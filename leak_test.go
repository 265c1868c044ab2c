//go:build unix

package mitosis

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// failures are splits that fail, each in another phase.
var failures = []func(*plan){
	fate("exit 3"), at(stepNewJoined, "kill"), fate("send garbage"), at(stepNewLoaded, "exit"), at(stepNewReady, "kill"),
}

var digits = regexp.MustCompile(`\d+`)

// kinds leaves out of an inventory what is another number in each process.
func kinds(i inventory) inventory {
	for n, descriptor := range i.Descriptors {
		i.Descriptors[n] = digits.ReplaceAllString(descriptor, "#")
	}
	return i
}

func TestAChainOfFiftySplitsOfWhichHalfFailLeaksNothing(t *testing.T) {
	t.Parallel()
	p := start(t, web())
	var second inventory
	for n := range 25 {
		p.plans(web(failures[n%len(failures)]))
		p.failSplit()
		p.generation()
		require.Empty(t, childrenOf(p.pid), "children of generation %d", n+1)
		p.plans(web())
		old := p
		p = p.split()
		old.awaitEnd()
		p.awaitLog("the old process is gone", `"generation":`+strconv.Itoa(n+2)+`,`)
		now := kinds(p.inventory())
		if n == 0 {
			second = now
		}
		assert.Equal(t, second.Environment, now.Environment, "environment of generation %d", n+2)
		assert.ElementsMatch(t, second.Descriptors, now.Descriptors, "descriptors of generation %d", n+2)
	}
	require.Equal(t, "26", p.do("generation"))
	assert.Empty(t, childrenOf(p.pid))
	assert.Eventually(t, func() bool { return p.inventory().Goroutines <= second.Goroutines }, bound, 5*time.Millisecond,
		"goroutines: the second generation had %d", second.Goroutines)
	p.isGeneration(26)
}

func TestAProcessWhoseSplitsFailTwentyFiveTimesInARowLeaksNothing(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	watcher := watch(first)
	for n := range 25 {
		first.plans(web(failures[n%len(failures)]))
		first.failSplit()
		first.generation()
	}
	watcher.unharmed()
}

// isGeneration asserts that the process serves as that generation.
func (p *generation) isGeneration(n int) {
	p.t.Helper()
	a := p.dial("web").ask("who")
	assert.Equal(p.t, n, a.Generation)
	assert.Equal(p.t, p.pid, a.Pid)
}
