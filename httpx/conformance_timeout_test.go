//go:build unix

package httpx_test

import (
	"net/http"
	"testing"
	"time"
)

// notBefore runs steps that may not be over before a time has passed: that would be
// part of the account.
func notBefore(d time.Duration, steps []step) step {
	return func(k *talk) {
		begin := time.Now()
		for _, step := range steps {
			step(k)
		}
		if time.Since(begin) < d {
			k.saw("it took less than %v", d)
		}
	}
}

func TestTimeoutsEndConnectionsAsInNetHTTP(t *testing.T) {
	t.Parallel()
	const short, long = 20 * time.Millisecond, 60 * time.Millisecond
	idle := func(s *http.Server) { s.IdleTimeout = long }
	header := func(s *http.Server) { s.ReadHeaderTimeout = long }
	read := func(s *http.Server) { s.ReadTimeout = long }
	end := []step{waitForEnd}
	exchanges := []exchange{
		{name: "IdleTimeout", last: true, settings: idle, steps: steps(notBefore(long, append(get("/"), waitForEnd)))},
		{name: "IdleTimeout at a split", last: true, settings: idle, steps: append(get("/"), waitForEnd)},
		{name: "IdleTimeout after a slow request", last: true, settings: idle, steps: steps(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, answer("GET"), waitForEnd)},
		{name: "IdleTimeout after the beginning of a request", last: true, settings: idle, steps: append(get("/"), send("GE"), waitForEnd)},
		{name: "IdleTimeout that is not reached", settings: func(s *http.Server) { s.IdleTimeout = time.Hour }, steps: append(get("/"), get("/")...)},
		{name: "ReadHeaderTimeout of a silent connection", new: true, last: true, settings: header, steps: steps(waitForEnd)},
		{name: "ReadHeaderTimeout of a part", last: true, settings: header, steps: steps(send("GET / HTTP/1.1\r\nHo"), waitForEnd)},
		{name: "ReadHeaderTimeout of a part of the second", last: true, settings: header, steps: append(get("/"), notBefore(long, steps(send("GET / HTTP/1.1\r\nHo"), waitForEnd)))},
		{name: "ReadHeaderTimeout does not begin before the request", last: true, steps: steps(notBefore(long, append(get("/"), waitForEnd))),
			settings: func(s *http.Server) { s.ReadHeaderTimeout, s.IdleTimeout = short, long }},
		{name: "ReadHeaderTimeout ends with the header", settings: func(s *http.Server) { s.ReadHeaderTimeout = long }, steps: steps(
			send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh"), notBefore(2*long, steps(pass(2*long))), send("i"), answer("POST"))},
		{name: "ReadTimeout in the header", last: true, settings: read, steps: steps(send("GET / HTTP/1.1\r\nHo"), waitForEnd)},
		{name: "ReadTimeout in the body", last: true, settings: read, steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe"), answer("POST"), waitForEnd)},
		{name: "ReadTimeout of a body that is unread", last: true, settings: read, steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe"), answer("POST"), waitForEnd)},
		{name: "ReadTimeout at rest", last: true, settings: read, steps: append(get("/"), end...)},
		{name: "WriteTimeout", last: true, settings: func(s *http.Server) { s.WriteTimeout = long }, steps: steps(send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"), event("flooded"), hangUp)},
		{name: "WriteTimeout of a slow handler", last: true, settings: func(s *http.Server) { s.WriteTimeout = short }, steps: steps(
			send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), pass(2*short), proceed, waitForEnd)},
		{name: "WriteTimeout does not count what was before", settings: func(s *http.Server) { s.WriteTimeout = long }, steps: steps(get("/"), pass(2*long), get("/"), get("/"))},
		{name: "all of them, and none is reached", steps: append(get("/"), get("/")...), settings: func(s *http.Server) {
			s.IdleTimeout, s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = time.Hour, time.Minute, time.Minute, time.Minute
		}},
		{name: "IdleTimeout after a byte that comes late", last: true, settings: idle, steps: append(get("/"), send("G"), send("E"), waitForEnd)},
		{name: "IdleTimeout ends with the beginning of a request", settings: idle, steps: steps(get("/"), send("GET "), pass(2*long), send("/ HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
	}
	for i := range exchanges {
		exchanges[i].attempts = 5 // the machine may be too slow for these times
	}
	compareAll(t, exchanges)
}

// pass lets time pass, for a deadline that must not be there.
func pass(d time.Duration) step {
	return func(*talk) { <-time.After(d) }
}
