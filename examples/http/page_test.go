package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThePageIsServedWithAllItsParts(t *testing.T) {
	handler := newHandler(&service{})
	for path, kind := range map[string]string{
		"/":         "text/html; charset=utf-8",
		"/page.css": "text/css; charset=utf-8",
		"/page.js":  "text/javascript; charset=utf-8",
		"/chart.js": "text/javascript; charset=utf-8",
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Equal(t, kind, w.Header().Get("Content-Type"), path)
		require.NotEmpty(t, w.Header().Get("Content-Security-Policy"), path)
	}
}

func TestOnlyAPageOfTheServiceItselfRestartsIt(t *testing.T) {
	const self = "127.0.0.1:8080"
	for name, test := range map[string]struct {
		host, from string
		header     http.Header
		want       int
	}{
		"its own page":               {self, "127.0.0.1:5000", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://" + self}}, http.StatusTeapot},
		"its own page, old browser":  {self, "127.0.0.1:5000", http.Header{"Origin": {"http://" + self}}, http.StatusTeapot},
		"by name":                    {"localhost:8080", "[::1]:5000", http.Header{"Sec-Fetch-Site": {"same-origin"}}, http.StatusTeapot},
		"without a port":             {"[::1]", "[::1]:5000", http.Header{"Sec-Fetch-Site": {"same-origin"}}, http.StatusTeapot},
		"no browser":                 {self, "127.0.0.1:5000", nil, http.StatusTeapot},
		"another site":               {self, "127.0.0.1:5000", http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"http://example.org"}}, http.StatusForbidden},
		"another port":               {self, "127.0.0.1:5000", http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://127.0.0.1:80"}}, http.StatusForbidden},
		"another site, old browser":  {self, "127.0.0.1:5000", http.Header{"Origin": {"http://example.org"}}, http.StatusForbidden},
		"a sandbox":                  {self, "127.0.0.1:5000", http.Header{"Origin": {"null"}}, http.StatusForbidden},
		"a name that points here":    {"rebound.example.org:8080", "127.0.0.1:5000", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://rebound.example.org:8080"}}, http.StatusForbidden},
		"a name that begins like it": {"localhost.example.org", "127.0.0.1:5000", nil, http.StatusForbidden},
		"no name":                    {"", "127.0.0.1:5000", nil, http.StatusForbidden},
		"another machine":            {self, "192.0.2.7:5000", http.Header{"Sec-Fetch-Site": {"same-origin"}}, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			handler := fromThisMachine(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
			r := httptest.NewRequest(http.MethodPost, "/restart", nil)
			r.Host, r.RemoteAddr = test.host, test.from
			for key, values := range test.header {
				r.Header[key] = values
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			assert.Equal(t, test.want, w.Code)
		})
	}
}

// A link or a picture in somebody's page sends GET, which does not restart anything.
func TestOnlyAPostRestarts(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/restart", nil)
	r.Host, r.RemoteAddr = "127.0.0.1", "127.0.0.1:5000"
	w := httptest.NewRecorder()
	newHandler(&service{}).ServeHTTP(w, r)
	assert.Equal(t, http.StatusNotFound, w.Code)
}
