//go:build unix

package httpx_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// handler returns what serves the exchanges in a generation.
func (s *scene) handler(generation int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", s.echo)
	mux.HandleFunc("/generation", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "generation %d", generation) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		s.pause("began")
		s.echo(w, r)
	})
	mux.HandleFunc("/chunked", s.chunked)
	mux.HandleFunc("/unread", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "unread") })
	mux.HandleFunc("/some", s.some)
	mux.HandleFunc("/length", s.length)
	mux.HandleFunc("/status/{code}", s.status)
	mux.HandleFunc("/panic/{when}", s.panics)
	mux.HandleFunc("/hijack", s.hijack)
	mux.HandleFunc("/file", s.file)
	mux.HandleFunc("/deadline", s.deadline)
	mux.HandleFunc("/duplex", s.duplex)
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		s.pause("hinted")
		w.WriteHeader(http.StatusProcessing)
		fmt.Fprint(w, "early")
	})
	mux.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, "bye")
	})
	mux.HandleFunc("/canceled", func(w http.ResponseWriter, r *http.Request) {
		//lint:ignore SA1019 programs still use it
		notified := w.(http.CloseNotifier).CloseNotify()
		s.events <- "began"
		for name, done := range map[string]func() bool{
			"context": func() bool { return wait(r.Context().Done()) },
			"notify":  func() bool { return wait(notified) },
		} {
			if !done() {
				s.saw("%s is not told", name)
			}
		}
		s.saw("canceled: %v", r.Context().Err())
		s.events <- "canceled"
	})
	mux.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				s.saw("flood: timeout=%v", os.IsTimeout(err))
				break
			}
		}
		s.events <- "flooded"
	})
	mux.HandleFunc("/context", func(w http.ResponseWriter, r *http.Request) {
		server := r.Context().Value(http.ServerContextKey).(*http.Server)
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "%T %v %s %T %s", server, server.IdleTimeout, local.Network(), local, r.RemoteAddr)
	})
	return mux
}

// wait waits, and returns false if that takes too long.
func wait[T any](c <-chan T) bool {
	select {
	case <-c:
		return true
	case <-time.After(patience):
		return false
	}
}

// echo responds with what it has got.
func (s *scene) echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.saw("%s %s %s %d bytes %v %v %v close=%v", r.Method, r.RequestURI, r.Proto, len(body), err, r.TransferEncoding, r.Trailer, r.Close)
	var lines []string
	for name, values := range r.Header {
		lines = append(lines, fmt.Sprintf("%s: %q", name, values))
	}
	for name, values := range r.Trailer {
		lines = append(lines, fmt.Sprintf("trailer %s: %q", name, values))
	}
	slices.Sort(lines)
	fmt.Fprintf(w, "%s %s %s %s %d\n%s\n%.40s", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength, strings.Join(lines, "\n"), body)
}

// chunked responds in chunks, with trailers.
func (s *scene) chunked(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "Sum")
	fmt.Fprint(w, "first")
	err := http.NewResponseController(w).Flush()
	s.pause("flushed")
	n, err2 := fmt.Fprint(w, strings.Repeat("second", 500))
	w.Header().Set("Sum", "42")
	w.Header().Set(http.TrailerPrefix+"More", "late")
	s.saw("chunked: %v %d %v", err, n, err2)
}

// some reads a part of the body only.
func (s *scene) some(w http.ResponseWriter, r *http.Request) {
	s.pause("began")
	b := make([]byte, 3)
	n, err := io.ReadFull(r.Body, b)
	s.saw("some: %q %v", b[:n], err)
	fmt.Fprintf(w, "some %s", b[:n])
}

// length announces another length than it writes.
func (s *scene) length(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", r.FormValue("announced"))
	n, err := io.WriteString(w, r.FormValue("written"))
	s.saw("length: %d %v", n, err)
}

// status responds with a status that may permit no body.
func (s *scene) status(w http.ResponseWriter, r *http.Request) {
	var code int
	fmt.Sscan(r.PathValue("code"), &code)
	w.WriteHeader(code)
	_, err := fmt.Fprint(w, "body")
	s.saw("status: %v", err)
}

// panics panics.
func (s *scene) panics(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("when") {
	case "flushed":
		fmt.Fprint(w, "begin")
		http.NewResponseController(w).Flush()
	case "written":
		fmt.Fprint(w, "begin")
	case "abort":
		s.pause("began")
		panic(http.ErrAbortHandler)
	}
	s.pause("began")
	panic("of the test")
}

// hijack talks in lines on the bare connection.
func (s *scene) hijack(w http.ResponseWriter, r *http.Request) {
	s.pause("began")
	c, rw, err := http.NewResponseController(w).Hijack()
	s.saw("hijack: %v", err)
	if err != nil {
		return
	}
	defer c.Close()
	_, sends := c.(io.ReaderFrom)
	_, closes := c.(interface{ CloseWrite() error })
	s.saw("hijacked: %v %v", sends, closes)
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n")
	for {
		line, err := rw.ReadString('\n')
		if line == "bye\n" || err != nil {
			s.saw("hijack ends: %q %v", line, err)
			return
		}
		fmt.Fprintf(rw, "got %s", line)
		rw.Flush()
	}
}

// file responds with a file.
func (s *scene) file(w http.ResponseWriter, r *http.Request) {
	f, err := os.CreateTemp("", "httpx")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	io.WriteString(f, strings.Repeat("0123456789", 20000))
	f.Seek(0, io.SeekStart)
	if r.FormValue("length") != "" {
		w.Header().Set("Content-Length", "200000")
	}
	n, err := io.Copy(w, f)
	s.saw("file: %d %v", n, err)
}

// deadline lets the read and write deadlines pass.
func (s *scene) deadline(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	s.pause("began")
	err := control.SetReadDeadline(time.Now().Add(-time.Second))
	n, readErr := r.Body.Read(make([]byte, 10))
	s.saw("read deadline: %v, %d %v", err, n, os.IsTimeout(readErr))
	if r.FormValue("write") != "" {
		err := control.SetWriteDeadline(time.Now().Add(-time.Second))
		_, writeErr := io.WriteString(w, strings.Repeat("x", 100000))
		s.saw("write deadline: %v, %v", err, os.IsTimeout(writeErr))
		s.events <- "written"
	}
	fmt.Fprint(w, "after the deadline")
}

// duplex responds while the request is still coming.
func (s *scene) duplex(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	s.saw("duplex: %v", control.EnableFullDuplex())
	for {
		b := make([]byte, 5)
		if _, err := io.ReadFull(r.Body, b); err != nil {
			s.saw("duplex ends: %v", err)
			return
		}
		w.Write(b)
		control.Flush()
	}
}
