package main

import "time"

// memory is all that the bot must not forget when it restarts. It travels as one gob, which, unlike JSON, keeps
// bytes that are not UTF-8, and in which a newer version may add fields. Everything in it is guarded by bot.mu.
type memory struct {
	Born      time.Time // start of the first generation
	Session   session
	Queue     queue
	Channels  []*channel
	Failures  int       // connections lost or not made in a row
	Redial    time.Time // not before
	Grants    []grant
	Inquiry   *inquiry
	AuthPause time.Time
	Restart   *restart
}

// A phase is how far a connection has come.
type phase int

const (
	offline     phase = iota // no connection, or one on which nothing has been said yet
	registering              // NICK and USER are out
	registered               // 001 has come
)

// A session is what goes with one connection to the server.
type session struct {
	Phase    phase
	Since    time.Time // beginning of the phase
	Nick     string
	User     string // our own, as others see it; "" until the server has shown it
	Host     string
	Attempts int // how many nicks the server has refused
	Support  support
	Offered  []string // capabilities of a CAP LS that is still going on
	Enabled  map[string]bool
	Heard    time.Time // last line from the server
	Pinged   time.Time // our PING that is still without an answer
	Regain   time.Time // next try for the nick that we want
	Skipping bool      // in the middle of a line that is too long
}

// A channel is one that the bot is in, or wants to be in.
type channel struct {
	Name     string
	Key      string
	Joined   bool
	Since    time.Time // of the join
	Messages int       // seen since then
	Rejoin   time.Time // next try while not joined
	Failures int       // refused joins in a row
	Seen     map[string]sighting
}

// A sighting is the last trace of a nick in a channel. What was said is nobody's business.
type sighting struct {
	Nick string
	What string
	When time.Time
}

// maxSightings bounds the memory of a channel; the oldest goes first.
const maxSightings = 5000

func (c *channel) saw(now time.Time, key, nick, what string) {
	if c.Seen == nil {
		c.Seen = make(map[string]sighting)
	}
	c.Seen[key] = sighting{Nick: nick, What: what, When: now}
	if len(c.Seen) <= maxSightings {
		return
	}
	oldest := key
	for k, s := range c.Seen {
		if s.When.Before(c.Seen[oldest].When) {
			oldest = k
		}
	}
	delete(c.Seen, oldest)
}

// A restart is a !restart that the next generation has to answer.
type restart struct {
	Origin     origin
	Generation int
	Asked      time.Time
}

// An origin is where a message came from and where an answer goes.
type origin struct {
	Prefix  prefix
	Account string // from the account tag
	Channel string // "" for a private message
	Target  string // Channel, perhaps with a status prefix, or the sender's nick
}

// channel returns what is known of a channel, or nil.
func (m *memory) channel(name string) *channel {
	for _, c := range m.Channels {
		if m.Session.Support.equal(c.Name, name) {
			return c
		}
	}
	return nil
}

// refold puts the sightings under the keys of another case mapping.
func (m *memory) refold() {
	for _, c := range m.Channels {
		seen := make(map[string]sighting, len(c.Seen))
		for _, s := range c.Seen {
			if key := m.Session.Support.fold(s.Nick); s.When.After(seen[key].When) {
				seen[key] = s
			}
		}
		c.Seen = seen
	}
}
