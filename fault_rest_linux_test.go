package mitosis

import (
	"regexp"
	"slices"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// restsAsBefore asserts that the owner has what every owner has that rests.
func (s *faultService) restsAsBefore(withLives bool) {
	s.t.Helper()
	descriptors, goroutines := shapes(s.base), s.base.Goroutines
	if s.traced {
		goroutines++ // that sends its reports
	}
	if !withLives {
		goroutines -= faultLives
		for range faultLives {
			i := slices.Index(descriptors, shape("socket:[1], close-on-exec true"))
			descriptors = slices.Delete(descriptors, i, i+1)
		}
	}
	s.p.settlesTo(goroutines, func(now inventory) bool {
		return s.leaky || assert.ObjectsAreEqual(descriptors, shapes(now))
	}, s.base)
}

// settlesTo waits until the process has no more than it should.
func (p *generation) settlesTo(goroutines int, descriptors func(inventory) bool, before inventory) {
	p.t.Helper()
	var now inventory
	for deadline := time.Now().Add(bound / 2); ; time.Sleep(2 * time.Millisecond) {
		now = p.inventory()
		if now.Goroutines <= goroutines && descriptors(now) {
			break
		}
		if time.Now().After(deadline) {
			require.FailNow(p.t, "something is left", "%d goroutines instead of %d; descriptors %q instead of %q\n%s",
				now.Goroutines, goroutines, now.Descriptors, before.Descriptors, p.do("stacks"))
		}
	}
	assert.Equal(p.t, before.Environment, now.Environment, "environment")
	assert.Empty(p.t, childrenOf(p.pid), "children, zombies included")
}

var inodeNumber = regexp.MustCompile(`\[\d+\]`)

func shape(descriptor string) string { return inodeNumber.ReplaceAllString(descriptor, "[]") }

func shapes(i inventory) []string {
	var list []string
	for _, d := range i.Descriptors {
		list = append(list, shape(d))
	}
	return sorted(list)
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
