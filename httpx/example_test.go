package httpx_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/httpx"
)

// The whole of a program that is restarted with SIGHUP and stopped with SIGTERM.
func ExampleListenAndServe() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	if err := httpx.ListenAndServe("127.0.0.1:8080", nil); err != nil {
		log.Fatal(err)
	}
}

// A program that has state beside its web server.
func ExampleServer() {
	ctx := context.Background()
	m, err := mitosis.Init(mitosis.Options{PIDFile: "/run/app.pid"})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	sessions := map[string]string{}
	if err := m.State("sessions", mitosis.Gob(&sessions)); err != nil {
		log.Fatal(err)
	}
	ln, err := m.Listen("web", "tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Ready(ctx); err != nil { // the old generation hands over here
		log.Fatal(err)
	}
	web := &httpx.Server{Server: &http.Server{Handler: http.NotFoundHandler()}}
	go web.Serve(ln)
	log.Print(m.Wait(ctx))
	if err := web.Shutdown(ctx); err != nil {
		log.Print(err)
	}
}
