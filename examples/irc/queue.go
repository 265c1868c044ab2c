package main

import (
	"time"
	"unicode/utf8"
)

const (
	// maxLine is the length of a message with its line ending, as the last server sends it on (RFC 1459, section 2.3).
	maxLine = 512
	// maxQueue bounds what somebody can make the bot say; what does not fit is not said at all.
	maxQueue = 200
)

// A pace is how fast the server lets a client talk (RFC 1459, section 8.10): each line costs Penalty, and a line
// may go out while the sum is not Burst lines ahead of the clock. A Penalty of zero sets no limit.
type pace struct {
	Penalty time.Duration
	Burst   int
}

// A queue holds the lines that are still to be said, and what has been said lately, so that the next generation
// keeps to the pace too.
type queue struct {
	Urgent []string  // what the protocol waits for: it goes first, and at once
	Lines  []string  // everything else, in order
	Clock  time.Time // the message timer of RFC 1459
}

// push adds a line and reports whether there was room.
func (q *queue) push(line string) bool {
	if len(q.Lines) >= maxQueue {
		return false
	}
	q.Lines = append(q.Lines, line)
	return true
}

// next takes the line that may go out now. Without one, it says how long to wait; 0 means that nothing is queued.
func (q *queue) next(now time.Time, p pace) (line string, wait time.Duration) {
	if q.Clock.Before(now) {
		q.Clock = now
	}
	switch {
	case len(q.Urgent) > 0:
		line, q.Urgent = q.Urgent[0], q.Urgent[1:]
	case len(q.Lines) == 0:
		return "", 0
	default:
		if ahead := q.Clock.Sub(now) - time.Duration(p.Burst-1)*p.Penalty; ahead > 0 {
			return "", ahead
		}
		line, q.Lines = q.Lines[0], q.Lines[1:]
	}
	q.Clock = q.Clock.Add(p.Penalty)
	return line, 0
}

// clear forgets the lines, not the pace, and returns how many there were.
func (q *queue) clear() int {
	n := len(q.Urgent) + len(q.Lines)
	q.Urgent, q.Lines = nil, nil
	return n
}

// cut shortens a line to limit bytes, not in the middle of a character.
func cut(line string, limit int) string {
	if len(line) <= limit {
		return line
	}
	for i := limit; i > max(0, limit-utf8.UTFMax); i-- {
		if utf8.RuneStart(line[i]) {
			return line[:i]
		}
	}
	return line[:limit] // no UTF-8
}
