package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
)

// requestHeader is the header by which a client numbers its requests.
const requestHeader = "X-Request"

// hitPath is where the service is asked.
const hitPath = "/hit"

// answer is what the service says to a request, as JSON.
type answer struct {
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
	Hits       int64  `json:"hits"`              // requests so far, in all generations
	Connection string `json:"connection"`        // the client's end: it stays the same as long as the connection does
	Request    string `json:"request,omitempty"` // the number that the client gave it
	SHA256     string `json:"sha256"`            // of the request's body
}

// service is what the program is for. It knows nothing of restarts.
type service struct {
	generation int
	pid        int
	hits       *hits
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b, err := json.Marshal(answer{
		Generation: s.generation,
		PID:        s.pid,
		Hits:       s.hits.add(1),
		Connection: r.RemoteAddr,
		Request:    r.Header.Get(requestHeader),
		SHA256:     hex.EncodeToString(sum.Sum(nil)),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // a client that has gone away does not mind
}
