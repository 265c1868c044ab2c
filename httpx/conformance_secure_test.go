//go:build unix

package httpx_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificate returns a certificate, made for this test.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	path := writeCertificate(t)
	c, err := tls.LoadX509KeyPair(path+".crt", path+".key")
	require.NoError(t, err)
	return c
}

// secureHandler responds with what it can see of the connection.
func secureHandler(generation int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %v", r.Proto, r.TLS != nil)
		if r.TLS != nil {
			fmt.Fprintf(w, " %q %q %d", r.TLS.NegotiatedProtocol, r.TLS.ServerName, len(r.TLS.PeerCertificates))
		}
	})
	mux.HandleFunc("/generation", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "generation %d", generation) })
	return mux
}

// fetch gets a page, and returns it, or that there was an error.
func fetch(client *http.Client, url string) string {
	response, err := client.Get(url)
	if err != nil {
		return "error"
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return fmt.Sprint(response.Proto, " ", response.Close, " ", string(body), " ", err)
}

func TestSettingsOfTLSAndProtocolsKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	own := certificate(t)
	pool := x509.NewCertPool()
	pool.AddCert(own.Leaf)
	protocols := func(set ...func(*http.Protocols, bool)) *http.Protocols {
		p := new(http.Protocols)
		for _, set := range set {
			set(p, true)
		}
		return p
	}
	with := func(c *tls.Config) func(*http.Server) { return func(s *http.Server) { s.TLSConfig = c } }
	for name, test := range map[string]struct {
		plain    bool
		settings func(*http.Server)
		want     string // in the response to a client that can speak HTTP/2
	}{
		"plain":              {plain: true, want: `HTTP/1.1 false`},
		"default":            {settings: with(&tls.Config{Certificates: []tls.Certificate{own}}), want: `HTTP/2.0 true "h2" "localhost" 0`},
		"client certificate": {settings: with(&tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}), want: `HTTP/2.0 true "h2" "localhost" 1`},
		"client certificate of another": {settings: with(&tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}),
			want: ""},
		"GetCertificate": {settings: with(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil }}), want: `"h2"`},
		"GetConfigForClient": {settings: with(&tls.Config{Certificates: []tls.Certificate{own}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"}}, nil
		}}), want: `HTTP/1.1 true "http/1.1"`},
		"NextProtos": {settings: with(&tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"}}), want: `HTTP/1.1 true "http/1.1"`},
		"empty TLSNextProto": {settings: func(s *http.Server) {
			s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
			s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		}, want: `HTTP/1.1 true`},
		"HTTP/1 only": {settings: func(s *http.Server) {
			s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
			s.Protocols = protocols((*http.Protocols).SetHTTP1)
		}, want: `HTTP/1.1 true`},
		"HTTP/2 only": {settings: func(s *http.Server) {
			s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
			s.Protocols = protocols((*http.Protocols).SetHTTP2)
		}, want: `HTTP/2.0 true`},
		"HTTP/2 without TLS": {plain: true, settings: func(s *http.Server) {
			s.Protocols = protocols((*http.Protocols).SetHTTP1, (*http.Protocols).SetUnencryptedHTTP2)
		}, want: `HTTP/1.1 false`},
		"HTTP/2 without TLS only": {plain: true, settings: func(s *http.Server) {
			s.Protocols = protocols((*http.Protocols).SetUnencryptedHTTP2)
		}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clients := map[string]*http.Protocols{
				"HTTP/1": protocols((*http.Protocols).SetHTTP1),
				"HTTP/2": protocols((*http.Protocols).SetHTTP1, (*http.Protocols).SetHTTP2),
				"h2c":    protocols((*http.Protocols).SetUnencryptedHTTP2),
			}
			chains := make([]*chain, 2)
			for i := range chains {
				c := newChain(t, "tcp", func(generation int, s *http.Server) {
					if test.settings != nil {
						test.settings(s)
						s.TLSConfig = s.TLSConfig.Clone() // as each process has its own
					}
					s.Handler = secureHandler(generation)
				})
				c.secure = !test.plain
				if i == 0 {
					c.startBare()
				} else {
					c.start()
				}
				chains[i] = c
			}
			for round := range 2 {
				for kind, p := range clients {
					transport := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", Certificates: []tls.Certificate{own}}}
					defer transport.CloseIdleConnections()
					client := &http.Client{Transport: transport, Timeout: patience}
					scheme := map[bool]string{true: "http://", false: "https://"}[test.plain]
					bare := fetch(client, scheme+chains[0].address.String())
					require.Equal(t, bare, fetch(client, scheme+chains[1].address.String()), kind)
					if kind == "HTTP/2" {
						require.Contains(t, bare, test.want)
					}
					if round == 1 && test.want != "" && kind == "HTTP/2" {
						require.Contains(t, fetch(client, scheme+chains[1].address.String()+"/generation"), "generation 2")
					}
				}
				if round == 0 {
					chains[1].split()
					chains[1].awaitEnd(1)
				}
			}
		})
	}
}

func TestRequestsWithoutTLSAreRefusedAsInNetHTTP(t *testing.T) {
	t.Parallel()
	own := certificate(t)
	var received, logs [2]string
	for i := range received {
		var lines journal
		c := newChain(t, "tcp", func(generation int, s *http.Server) {
			s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
			s.Handler = secureHandler(generation)
			s.ErrorLog = log.New(&lines, "", 0)
		})
		c.secure = true
		if i == 0 {
			c.startBare()
		} else {
			c.start()
		}
		k := c.dial(newScene())
		k.do(send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), waitForEnd)
		c.awaitState(1, http.StateClosed, 1)
		received[i], logs[i] = k.received.String(), fmt.Sprint(lines.all())
	}
	require.Contains(t, received[0], "400 Bad Request")
	require.Contains(t, logs[0], "TLS handshake error")
	require.Equal(t, received[0], received[1])
	require.Equal(t, logs[0], logs[1])
}

func TestAConnectionMovesBeforeItsHandshakeAndEndsAfterOne(t *testing.T) {
	t.Parallel()
	own := certificate(t)
	scene := newScene()
	c := newChain(t, "tcp", func(generation int, s *http.Server) {
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
		s.Handler = scene.handler(generation)
	})
	c.secure = true
	c.start()
	dial := func() *talk {
		conn, err := net.Dial("tcp", c.address.String())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return c.talk(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), scene)
	}
	silent, idle, busy := dial(), dial(), dial()
	idle.do(get("/"))
	busy.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
	c.awaitState(1, http.StateNew, 3)
	c.awaitState(1, http.StateIdle, 1)
	c.split()
	c.awaitEnd(1)
	c.awaitState(1, http.StateClosed, 1) // it has moved: what it sends before that, this process answers
	silent.do((*talk).probe)
	require.Contains(t, silent.received.String(), "generation 2")
	idle.do(get("/generation"), waitForEnd)
	require.Contains(t, idle.received.String(), "generation 1")
	require.Contains(t, idle.received.String(), "Connection: close")
	busy.do(proceed, answer("GET"))
	ended := make(chan error, 1)
	go func() { ended <- c.servers[0].Shutdown(context.Background()) }()
	busy.do(get("/generation"), waitForEnd)
	within(t, "Shutdown", func() { require.NoError(t, <-ended) })
}

// http2Chain is a service that speaks HTTP/2.
func http2Chain(t *testing.T, s *scene, secure bool, settings func(*http.Server)) *chain {
	own := certificate(t)
	c := newChain(t, "tcp", func(generation int, server *http.Server) {
		server.Handler = s.handler(generation)
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
		if !secure {
			server.Protocols = new(http.Protocols)
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
		}
		if settings != nil {
			settings(server)
		}
	})
	c.secure = secure
	return c
}

func (c *chain) dialHTTP2() *framer {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.address.String())
	require.NoError(c.t, err)
	if c.secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	return newFramer(c.t, conn)
}

func TestHTTP2ConnectionsAreToldToGoAwayAtASplit(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"TLS": true, "no TLS": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scene := newScene()
			c := http2Chain(t, scene, secure, nil).start()
			idle, busy := c.dialHTTP2(), c.dialHTTP2()
			idle.request(1, "/generation")
			status, body := idle.response(1)
			require.Equal(t, "200 generation 1", status+" "+body)
			busy.await(settingsFrame)
			busy.request(1, "/slow")
			scene.await(t, "began")
			silent, err := net.Dial("tcp", c.address.String())
			require.NoError(t, err)
			c.awaitState(1, http.StateNew, 3)
			slow := c.dial(scene)
			if !secure {
				slow.do(send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), event("began"))
			}

			c.split()
			for _, f := range []*framer{idle, busy} {
				away := f.await(goAwayFrame)
				require.Zero(t, binary.BigEndian.Uint32(away.payload[4:8]), "no error")
			}
			idle.requireEnd()
			busy.requireAlive()
			scene.proceed <- struct{}{}
			if !secure {
				scene.proceed <- struct{}{}
				slow.do(answer("GET"), (*talk).probe)
				require.Contains(t, slow.received.String(), "generation 2")
			}
			slow.conn.Close()
			status, body = busy.response(1)
			require.Equal(t, "200", status)
			require.Contains(t, body, "GET /slow HTTP/2.0")
			busy.requireEnd()
			within(t, "Shutdown", func() { require.NoError(t, c.servers[0].Shutdown(context.Background())) })

			c.awaitState(1, http.StateClosed, 1)
			if secure {
				silent = tls.Client(silent, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			}
			moved := newFramer(t, silent)
			moved.request(1, "/generation")
			_, body = moved.response(1)
			require.Equal(t, "generation 2", body)
		})
	}
}

func TestHTTP2ClientsGoOnOverSplits(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"TLS": true, "no TLS": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := http2Chain(t, newScene(), secure, nil).start()
			transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			transport.Protocols.SetHTTP2(secure)
			transport.Protocols.SetUnencryptedHTTP2(!secure)
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			url := map[bool]string{true: "https://", false: "http://"}[secure] + c.address.String() + "/generation"
			for generation := 1; generation < 4; generation++ {
				require.Equal(t, fmt.Sprintf("HTTP/2.0 false generation %d <nil>", generation), fetch(client, url))
				c.split()
				c.awaitEnd(generation)
				for range 5 {
					require.Contains(t, fetch(client, url), "HTTP/2.0 false generation")
				}
				for range 100 { // until GOAWAY has come
					if fetch(client, url) == fmt.Sprintf("HTTP/2.0 false generation %d <nil>", generation+1) {
						break
					}
				}
			}
		})
	}
}

func TestSettingsOfHTTP2KeepTheirMeaning(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"TLS": true, "no TLS": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var payloads [][]byte
			for _, bare := range []bool{true, false} {
				c := http2Chain(t, newScene(), secure, func(s *http.Server) {
					s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 7, MaxReadFrameSize: 1 << 17, PermitProhibitedCipherSuites: true}
					s.IdleTimeout = time.Hour
				})
				if bare {
					c.startBare()
				} else {
					c.start()
				}
				payloads = append(payloads, c.dialHTTP2().await(settingsFrame).payload)
			}
			require.Equal(t, payloads[0], payloads[1])
			require.Contains(t, string(payloads[0]), "\x00\x03\x00\x00\x00\x07", "MAX_CONCURRENT_STREAMS")
		})
	}
}

func TestHTTP2ConnectionsAreToldToGoAwayWhenTheServiceStops(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"TLS": true, "no TLS": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scene := newScene()
			c := http2Chain(t, scene, secure, nil).start()
			idle, busy := c.dialHTTP2(), c.dialHTTP2()
			idle.request(1, "/generation")
			idle.response(1)
			told := []*framer{idle, busy}
			for range 200 { // GOAWAY and the end of what is idle are raced for
				silent := c.dialHTTP2()
				silent.await(settingsFrame)
				told = append(told, silent)
			}
			busy.await(settingsFrame)
			busy.request(1, "/slow")
			scene.await(t, "began")
			c.awaitState(1, http.StateIdle, len(told))
			stopped := make(chan error, 1)
			go func() { stopped <- c.servers[0].Shutdown(context.Background()) }()
			for _, f := range told {
				f.await(goAwayFrame)
			}
			idle.requireEnd()
			busy.requireAlive()
			scene.proceed <- struct{}{}
			status, _ := busy.response(1)
			require.Equal(t, "200", status)
			busy.requireEnd()
			within(t, "Shutdown", func() { require.NoError(t, <-stopped) })
		})
	}
}
