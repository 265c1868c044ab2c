//go:build unix

package httpx_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// steps joins steps and lists of them.
func steps(parts ...any) []step {
	var all []step
	for _, part := range parts {
		switch part := part.(type) {
		case step:
			all = append(all, part)
		case func(*talk):
			all = append(all, part)
		case []step:
			all = append(all, part...)
		}
	}
	return all
}

func TestMessagesAreAsInNetHTTP(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 300<<10)
	compareAll(t, []exchange{
		{name: "GET", steps: get("/path?q=1")},
		{name: "GET twice", steps: append(get("/"), get("/2")...)},
		{name: "GET in pieces", steps: steps(send("G"), send("ET / HT"), send("TP/1.1\r\nHost: x\r"), send("\n\r"), send("\n"), answer("GET"))},
		{name: "GET with bare line feeds", steps: steps(send("GET / HTTP/1.1\nHost: x\n\n"), answer("GET"))},
		{name: "HEAD", steps: steps(send("HEAD /path HTTP/1.1\r\nHost: x\r\n\r\n"), answer("HEAD"))},
		{name: "HEAD that is slow", steps: steps(send("HEAD /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, answer("HEAD"))},
		{name: "GET that is slow", steps: steps(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, answer("GET"))},
		{name: "slow and then another", steps: steps(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), send("GET /second"), proceed, send(" HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"), answer("GET"))},
		{name: "POST", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"), answer("POST"))},
		{name: "POST in pieces", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"), send("he"), send("llo"), answer("POST"))},
		{name: "POST that is slow", steps: steps(send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"), event("began"), send("he"), proceed, send("llo"), answer("POST"))},
		{name: "POST without length", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\n\r\n"), answer("POST"))},
		{name: "large POST", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 307200\r\n\r\n"), send(large), answer("POST"))},
		{name: "PUT", steps: steps(send("PUT /it HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), answer("PUT"))},
		{name: "PATCH, DELETE and a method of one's own", steps: steps(
			send("PATCH / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"), answer("PATCH"),
			send("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"), answer("DELETE"),
			send("BREW / HTTP/1.1\r\nHost: x\r\n\r\n"), answer("BREW"))},
		{name: "TRACE and CONNECT", steps: steps(
			send("TRACE / HTTP/1.1\r\nHost: x\r\n\r\n"), answer("TRACE"),
			send("CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n"), answer("POST"))},
		{name: "OPTIONS *", steps: steps(send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), answer("OPTIONS"))},
		{name: "OPTIONS * with a body", steps: steps(send("OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"), answer("OPTIONS"))},
		{name: "OPTIONS * for the handler", settings: func(s *http.Server) { s.DisableGeneralOptionsHandler = true },
			steps: steps(send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), answer("OPTIONS"))},
		{name: "GET *", steps: steps(send("GET * HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "absolute URI", steps: steps(send("GET http://other/path HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "path that is cleaned", steps: steps(send("GET /a/../b//c HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "many headers", steps: steps(send("GET / HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("A: b\r\n", 500)), send("C:d\r\n\r\n"), answer("GET"))},
		{name: "HTTP/1.0", steps: steps(send("GET / HTTP/1.0\r\n\r\n"), answer("GET"))},
		{name: "HTTP/1.0 with keep-alive", steps: steps(send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), answer("GET"), send("GET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), answer("GET"))},
		{name: "HTTP/1.0 without a length", steps: steps(send("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), event("flushed"), proceed, answer("GET"))},
		{name: "HTTP/1.0 POST", steps: steps(send("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi"), answer("POST"))},
		{name: "Connection: close", steps: steps(send("GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), event("began"), proceed, answer("GET"))},
		{name: "Connection: close of the handler", steps: get("/close")},
		{name: "keep-alives disabled", new: true, settings: func(s *http.Server) { s.SetKeepAlivesEnabled(false) }, steps: get("/")},
		{name: "chunked upload", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5\r\nhe"), send("llo\r\n1;ext=2\r\n!\r\n"), send("0\r\nSum: 42\r\n\r\n"), answer("POST"))},
		{name: "slow chunked upload", steps: steps(send("POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), event("began"), proceed, send("0\r\n"), send("\r\n"), answer("POST"))},
		{name: "chunked upload and the next request", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /nex"), answer("POST"), send("t HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "chunked response", steps: steps(send("GET /chunked HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n"), event("flushed"), until("first\r\n"), proceed, until("Sum: 42\r\n\r\n"))},
		{name: "100 Continue", steps: steps(send("POST /slow HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"), event("began"), proceed, until("100 Continue\r\n\r\n"), send("hello"), answer("POST"))},
		{name: "100 Continue that is not waited for", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"), until("100 Continue\r\n\r\n"), answer("POST"))},
		{name: "100 Continue unread", steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"), answer("POST"))},
		{name: "100 Continue in HTTP/1.0", steps: steps(send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"), answer("POST"))},
		{name: "417", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\nhi"), answer("POST"))},
		{name: "small body unread", steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"), answer("POST"))},
		{name: "body unread that comes late", steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe"), send("llo"), answer("POST"))},
		{name: "large body unread", steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 307200\r\n\r\n"+large), answer("POST"))},
		{name: "body under the limit unread", steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 204800\r\n\r\n"+large[:200<<10]), answer("POST"))},
		{name: "chunked body unread", steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"), answer("POST"))},
		{name: "body partly read", steps: steps(send("POST /some HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234"), event("began"), proceed, send("56789"), answer("POST"))},
		{name: "body that ends early", last: true, steps: steps(send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234"), event("began"), endOutput, proceed, answer("POST"), waitForEnd)},
		{name: "body that is too long", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n01234"), answer("POST"), send("\r\n\r\n"), answer("POST"))},
		{name: "output that ends before the response", last: true, steps: steps(send("GET /chunked HTTP/1.1\r\nHost: x\r\n\r\n"), event("flushed"), endOutput, proceed, answer("GET"), waitForEnd)},
		{name: "output that ends at rest", last: true, steps: append(get("/"), endOutput, waitForEnd)},
		{name: "output that ends in a request", last: true, steps: steps(send("GET / HTTP/1.1\r\nHo"), endOutput, waitForEnd)},
		{name: "line ends after a POST", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\r\n"), answer("POST"), send("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "line ends late after a POST", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"), answer("POST"), send("\r"), send("\n"), send("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "4 line ends after a POST", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\r\n"), answer("POST"), send("\r\n"), send("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
		{name: "line ends and a POST after a POST", steps: steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\r\nP"), answer("POST"), send("OST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"), send("\r\n"), answer("POST"))},
		{name: "200 Early Hints", steps: steps(send("GET /early HTTP/1.1\r\nHost: x\r\n\r\n"), event("hinted"), until("\r\n\r\n"), proceed, until("\r\n\r\n"), answer("GET"))},
		{name: "204", steps: get("/status/204")},
		{name: "304", steps: get("/status/304")},
		{name: "500", steps: get("/status/500")},
		{name: "handler writes too much", steps: get("/length?announced=3&written=hello")},
		{name: "handler writes too little", steps: get("/length?announced=10&written=hello")},
		{name: "file", steps: get("/file?length=1")},
		{name: "file in chunks", steps: get("/file")},
		{name: "context", settings: func(s *http.Server) { s.IdleTimeout = 12345e9 }, steps: get("/context")},
	})
}

func TestMessagesAreAsInNetHTTPOnOtherNetworks(t *testing.T) {
	t.Parallel()
	var exchanges []exchange
	for _, network := range []string{"unix", "tcp6"} {
		for _, e := range []exchange{
			{name: "GET", steps: append(get("/context"), get("/2")...)},
			{name: "slow", steps: steps(send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe"), event("began"), proceed, send("llo\r\nG"), answer("POST"), send("ET / HTTP/1.1\r\nHost: x\r\n\r\n"), answer("GET"))},
			{name: "file", steps: get("/file?length=1")},
			{name: "large body unread", new: true, steps: steps(send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 307200\r\n\r\n"), send(strings.Repeat("x", 300<<10)), answer("POST"))},
			{name: "malformed", steps: steps(send("GET / HTTP/1.1\r\nHost : x\r\n\r\n"), waitForEnd)},
			{name: "hijack", last: true, steps: hijacking},
		} {
			e.network = network
			e.name = network + " " + e.name
			exchanges = append(exchanges, e)
		}
	}
	compareAll(t, exchanges)
}

// hijacking is an exchange in which the handler takes the connection.
var hijacking = steps(send("GET /hijack HTTP/1.1\r\nHost: x\r\n\r\nbuff"), event("began"), send("ered\n"), proceed,
	until("got buffered\n"), send("a\nb\n"), until("got a\ngot b\n"), send("bye\n"), waitForEnd)

func TestHandlersCanDoWhatTheyCanInNetHTTP(t *testing.T) {
	t.Parallel()
	compareAll(t, []exchange{
		{name: "hijack", last: true, steps: hijacking},
		{name: "hijack and hang up", last: true, steps: steps(send("GET /hijack HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, until("\r\n\r\n"), send("a\n"), until("got a\n"), endOutput, waitForEnd)},
		{name: "panic", steps: steps(send("GET /panic/first HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, waitForEnd)},
		{name: "panic after writing", steps: steps(send("GET /panic/written HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, waitForEnd)},
		{name: "panic after flushing", steps: steps(send("GET /panic/flushed HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, waitForEnd)},
		{name: "ErrAbortHandler", steps: steps(send("GET /panic/abort HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, waitForEnd)},
		{name: "full duplex", steps: steps(send("POST /duplex HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"), send("12345"), until("12345\r\n"), send("67890"), until("67890\r\n0\r\n\r\n"))},
		{name: "full duplex of another length", steps: steps(send("POST /duplex HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n1234567\r\n"), until("12345\r\n"), send("0\r\n"), send("\r\n"), until("0\r\n\r\n"))},
		{name: "read deadline", steps: steps(send("POST /deadline HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"), event("began"), proceed, answer("POST"), waitForEnd)},
		{name: "read deadline without a body", steps: steps(send("GET /deadline HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, answer("GET"))},
		{name: "write deadline", steps: steps(send("GET /deadline?write=1 HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), proceed, event("written"), waitForEnd)},
		{name: "client that goes away", last: true, steps: steps(send("GET /canceled HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), hangUp, event("canceled"))},
		{name: "client that ends its output", last: true, steps: steps(send("GET /canceled HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"), endOutput, event("canceled"), answer("GET"), waitForEnd)},
	})
}

func TestMalformedRequestsAreRefusedAsInNetHTTP(t *testing.T) {
	t.Parallel()
	var exchanges []exchange
	for name, request := range map[string]string{
		"no version":                        "GET /\r\n\r\n",
		"HTTP/0.9":                          "GET / HTTP/0.9\r\n\r\n",
		"HTTP/1.2":                          "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
		"HTTP/2.0":                          "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
		"HTTP/2 preface":                    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/3.0":                          "GET / HTTP/3.0\r\nHost: x\r\n\r\n",
		"HTTP/11":                           "GET / HTTP/11\r\nHost: x\r\n\r\n",
		"lower case version":                "GET / http/1.1\r\nHost: x\r\n\r\n",
		"no URI":                            "GET  HTTP/1.1\r\nHost: x\r\n\r\n",
		"bad URI":                           "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"URI with a control":                "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
		"relative URI":                      "GET path HTTP/1.1\r\nHost: x\r\n\r\n",
		"bad method":                        "G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
		"no host":                           "GET / HTTP/1.1\r\n\r\n",
		"two hosts":                         "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"bad host":                          "GET / HTTP/1.1\r\nHost: x/y\x01\r\n\r\n",
		"space before the colon":            "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
		"no colon":                          "GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
		"empty name":                        "GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
		"bad name":                          "GET / HTTP/1.1\r\nHost: x\r\nA(: b\r\n\r\n",
		"bad value":                         "GET / HTTP/1.1\r\nHost: x\r\nA: \x01\r\n\r\n",
		"NUL in a value":                    "GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
		"folded header":                     "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
		"leading space":                     " GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"space before the first header":     "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
		"carriage return only":              "GET / HTTP/1.1\rHost: x\r\r\n\r\n",
		"binary":                            "\x00\x01\x02\x03\x04\r\n\r\n",
		"TLS":                               "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n",
		"two lengths":                       "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"two equal lengths":                 "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
		"negative length":                   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"length with a sign":                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
		"length that is too large":          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"empty length":                      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
		"length and chunked":                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"unknown transfer coding":           "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
		"two transfer codings":              "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"transfer coding twice":             "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"transfer coding in HTTP/1.0":       "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"bad chunk length":                  "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"chunk without its end":             "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
		"bad trailer":                       "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"bad body unread":                   "POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"upgrade to HTTP/2 that is unasked": "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
	} {
		half := len(request) / 2
		exchanges = append(exchanges,
			exchange{name: name, steps: steps(send(request), answer("POST"))},
			exchange{name: name + " in pieces", steps: steps(send(request[:half]), send(request[half:]), answer("POST"))},
			exchange{name: name + " after others", steps: slices.Concat(get("/"), steps(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"+request), answer("POST"), answer("POST")))})
	}
	headers := "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 20000) + "\r\n\r\n"
	limited := func(s *http.Server) { s.MaxHeaderBytes = 1000 }
	exchanges = append(exchanges,
		exchange{name: "431", settings: limited, steps: steps(send(headers), answer("GET"), waitForEnd)},
		exchange{name: "431 in pieces", settings: limited, steps: steps(send(headers[:3000]), send(headers[3000:]), answer("GET"), waitForEnd)},
		exchange{name: "not yet 431", settings: limited, steps: steps(send("GET / HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 2000)+"\r\n\r\n"), answer("GET"))},
		exchange{name: "headers under the usual limit", steps: steps(send(headers), answer("GET"))},
	)
	compareAll(t, exchanges)
}

func TestAConnectionThatHasMovedForgivesLineEndsBeforeARequest(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	e := exchange{steps: steps(send(get+"\r\n"), answer("GET"), send(get), answer("GET"))}
	bare := e.play(t, situation{bare: true})
	require.Contains(t, bare.received, "400 Bad Request", "net/http forgives them after a POST only")
	require.Equal(t, bare, e.play(t, situation{}))
	// The next generation does not know which method was the last.
	moved := exchange{steps: steps(send(get+"\r\n"), answer("GET"), func(k *talk) { k.chain.awaitState(1, http.StateIdle, 1) },
		func(k *talk) { k.chain.awaitState(1, http.StateClosed, 1) }, send(get), answer("GET"))}
	account := moved.play(t, situation{splits: []int{3}})
	require.NotContains(t, account.received, "400 Bad Request")
	require.Len(t, account.seen, 2)
}
