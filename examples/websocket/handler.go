package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/gobwas/ws"
)

const (
	lobby       = "lobby" // for those who name no room
	longestName = 24      // of people and rooms, in bytes
)

//go:embed page
var pageFiles embed.FS

// newHandler returns all that the program serves.
func newHandler(s *server) http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /ws", s.join)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.status()) // a client that has gone away does not mind
	})
	return mux
}

// A guest is somebody who wants to become a client.
type guest struct {
	room, name string
	answer     []byte // to the request
	conn       net.Conn
	unread     []byte // what was read from conn after the request
}

// join makes a client of the one who sends a request. The connection comes under the registry's care first, and then
// the request is answered, through the client's queue. So if the next generation has taken over meanwhile, the request
// still has no answer, and goes there with its connection.
func (s *server) join(w http.ResponseWriter, r *http.Request) {
	g := guest{room: r.FormValue("room"), name: r.FormValue("name")}
	if g.room == "" {
		g.room = lobby
	}
	request := requestBytes(r)
	status, err := http.StatusOK, error(nil)
	switch {
	case !isName(g.room) || g.name != "" && !isName(g.name):
		status, err = http.StatusBadRequest, fmt.Errorf("a name is 1 to %d bytes of letters, digits, - and _", longestName)
	case !isSameOrigin(r):
		status, err = http.StatusForbidden, errors.New("a page from elsewhere may not join")
	default:
		g.answer, status, err = answer(request)
	}
	if err != nil {
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, err.Error(), status)
		return
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		http.Error(w, "the server stops", http.StatusServiceUnavailable)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	g.conn = conn
	g.unread, _ = buffered.Reader.Peek(buffered.Reader.Buffered())
	if err = s.add(g); isSuperseded(err) {
		err = s.listener.Forward(conn, append(request, g.unread...))
	}
	if err != nil {
		slog.Warn("a connection was turned away", "peer", conn.RemoteAddr(), "error", err)
		conn.Close()
	}
}

// requestBytes returns a request without a body as it was sent, but for the order of the header.
func requestBytes(r *http.Request) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Proto, r.Host)
	_ = r.Header.Write(&b) // a buffer takes all
	b.WriteString("\r\n")
	return b.Bytes()
}

// answer returns the answer to the opening handshake, or the status that tells what is wrong with it.
func answer(request []byte) ([]byte, int, error) {
	var b bytes.Buffer
	_, err := ws.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(request), &b})
	var rejected *ws.ConnectionRejectedError
	switch {
	case errors.As(err, &rejected):
		return nil, rejected.StatusCode(), err
	case err != nil:
		return nil, http.StatusBadRequest, err
	}
	return b.Bytes(), http.StatusSwitchingProtocols, nil
}

// isSameOrigin says whether a browser sends the request for a page of ours. Programs send no Origin.
func isSameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

func isName(name string) bool {
	return name != "" && len(name) <= longestName && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
	})
}
