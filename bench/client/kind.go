package client

import "math"

// Kind is a way in which a client behaves.
type Kind string

// The kinds of clients.
const (
	Busy      Kind = "busy"      // keep-alive, one request after the other; see Options.Pause
	Idle      Kind = "idle"      // keep-alive, a request about once a second, and silence between
	Short     Kind = "short"     // a connection for each request
	Slow      Kind = "slow"      // keep-alive, answers that take 50ms to 1s
	Upload    Kind = "upload"    // keep-alive, chunked bodies that trickle for up to half a second
	Stream    Kind = "stream"    // keep-alive, answers that trickle for up to half a second
	Pipelined Kind = "pipelined" // keep-alive, several requests at once, cut at odd places
	Parked    Kind = "parked"    // keep-alive, a request at the beginning and one at the end
)

// Kinds lists the kinds that NewMix mixes, AllKinds also the parked ones.
var (
	Kinds    = []Kind{Busy, Idle, Short, Slow, Upload, Stream, Pipelined}
	AllKinds = append(Kinds[:len(Kinds):len(Kinds)], Parked)
)

// Quick tells whether the time that an answer takes says something about the server: the requests of the
// other kinds take as long as the client asked for.
func (k Kind) Quick() bool { return k == Busy || k == Idle || k == Short }

// KeepsAlive tells whether the kind wants to keep its connection.
func (k Kind) KeepsAlive() bool { return k != Short }

// Mix says how many clients of each kind there are.
type Mix map[Kind]int

// Total returns the number of clients in the mix.
func (m Mix) Total() int {
	total := 0
	for _, n := range m {
		total += n
	}
	return total
}

var shares = Mix{Busy: 20, Idle: 120, Short: 9, Slow: 20, Upload: 20, Stream: 20, Pipelined: 20}

// NewMix shares total clients out to the kinds: most of them are idle most of the time, as on a real
// server. A total smaller than the number of kinds gives one of each kind.
func NewMix(total int) Mix {
	mix := Mix{}
	for _, kind := range Kinds {
		share := float64(shares[kind]) / float64(shares.Total())
		mix[kind] = max(1, int(math.Round(share*float64(total))))
	}
	// What rounding has left over or taken too much goes to the largest group.
	mix[Idle] = max(1, mix[Idle]+total-mix.Total())
	return mix
}
