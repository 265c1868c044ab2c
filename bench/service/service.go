// Package service is the HTTP service that every variant of the benchmark serves. Each answer can be
// checked to the last byte by who asked: it repeats the request's own name and a checksum of its body, so
// that a lost, a repeated and a mixed-up answer are all seen.
package service

import (
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	// HeaderRequest carries the name of a request, which its answer repeats.
	HeaderRequest = "X-Request"
	// HeaderProcess carries, in every answer, the id of the process that faces the client.
	HeaderProcess = "X-Process"
)

const (
	maxBody   = 16 << 20
	maxDelay  = 10 * time.Second
	maxBlocks = 1000
	blockSize = 2048
)

var table = crc32.MakeTable(crc32.Castagnoli)

// Handler returns the service: /echo, /slow?delay=300ms and /upload answer a body with its checksum,
// /stream?blocks=8&pause=20ms sends a long answer block by block, /whoami names the process and its
// generation.
func Handler(generation int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("POST /upload", echo)
	mux.HandleFunc("POST /slow", slow)
	mux.HandleFunc("POST /stream", stream)
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%d %d\n", os.Getpid(), generation)
	})
	process := strconv.Itoa(os.Getpid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(HeaderProcess, process)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	})
}

// Answer returns what /echo, /upload and /slow answer to a body.
func Answer(name string, body []byte) []byte {
	return answer(name, crc32.Checksum(body, table), len(body))
}

// WriteStream writes what /stream answers to a body, and calls between after each block.
func WriteStream(w io.Writer, name string, body []byte, blocks int, between func() error) error {
	return writeStream(w, name, crc32.Checksum(body, table), len(body), blocks, between)
}

func answer(name string, sum uint32, length int) []byte {
	return fmt.Appendf(nil, "%s %08x %d\n", name, sum, length)
}

func writeStream(w io.Writer, name string, sum uint32, length, blocks int, between func() error) error {
	block := make([]byte, 0, blockSize)
	for i := range blocks {
		block = fmt.Appendf(block[:0], "%s block %d ", name, i)
		for len(block) < blockSize-1 {
			block = append(block, 'a'+byte((i+len(block))%26))
		}
		block = append(block, '\n')
		if _, err := w.Write(block); err != nil {
			return err
		}
		if err := between(); err != nil {
			return err
		}
	}
	_, err := w.Write(answer(name, sum, length))
	return err
}

func echo(w http.ResponseWriter, r *http.Request) {
	sum, length, err := checksum(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(answer(r.Header.Get(HeaderRequest), sum, length))
}

func slow(w http.ResponseWriter, r *http.Request) {
	delay, err := time.ParseDuration(r.URL.Query().Get("delay"))
	if err != nil || delay < 0 || delay > maxDelay {
		http.Error(w, "delay: between 0s and "+maxDelay.String(), http.StatusBadRequest)
		return
	}
	sum, length, err := checksum(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if pause(r, delay) != nil {
		return
	}
	_, _ = w.Write(answer(r.Header.Get(HeaderRequest), sum, length))
}

func stream(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	blocks, err := strconv.Atoi(query.Get("blocks"))
	if err != nil || blocks < 1 || blocks > maxBlocks {
		http.Error(w, "blocks: between 1 and "+strconv.Itoa(maxBlocks), http.StatusBadRequest)
		return
	}
	between, err := time.ParseDuration(query.Get("pause"))
	if err != nil || between < 0 || between > maxDelay {
		http.Error(w, "pause: between 0s and "+maxDelay.String(), http.StatusBadRequest)
		return
	}
	sum, length, err := checksum(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	controller := http.NewResponseController(w)
	// A client that has gone away is the only error here, and nobody is left to hear of it.
	_ = writeStream(w, r.Header.Get(HeaderRequest), sum, length, blocks, func() error {
		if err := controller.Flush(); err != nil {
			return err
		}
		return pause(r, between)
	})
}

func pause(r *http.Request, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

func checksum(body io.Reader) (sum uint32, length int, err error) {
	var h hash.Hash32 = crc32.New(table)
	n, err := io.Copy(h, body)
	return h.Sum32(), int(n), err
}
