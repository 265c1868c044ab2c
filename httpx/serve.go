package httpx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/bhuthesh/mitosis"
)

// ListenAndServe serves handler on addr, over all restarts: SIGHUP and SIGUSR2
// start the program anew and hand over to it, SIGTERM and SIGINT stop it. It
// returns nil when this process has done its part and should exit, and an error if
// it could not begin: then a process that was there before serves on.
//
// An empty addr means ":http", a nil handler http.DefaultServeMux. The registry of
// the process is opened and closed here; a program that has one of its own uses
// [Server].
func ListenAndServe(addr string, handler http.Handler) error {
	return Serve(&http.Server{Addr: addr, Handler: handler})
}

// ListenAndServeTLS is ListenAndServe for HTTPS. An empty addr means ":https". The
// files are read anew by each generation; if they are missing or wrong, a restart
// fails and the old process serves on.
func ListenAndServeTLS(addr, certFile, keyFile string, handler http.Handler) error {
	server := &Server{Server: &http.Server{Addr: addr, Handler: handler}}
	return run(entry{server: server, secure: true, certFile: certFile, keyFile: keyFile})
}

// Serve is ListenAndServe for servers with settings, each on its Addr. A server
// whose TLSConfig has a certificate, or a function that finds one, serves HTTPS.
func Serve(servers ...*http.Server) error {
	if len(servers) == 0 {
		return errors.New("httpx: Serve needs a server")
	}
	entries := make([]entry, len(servers))
	for i, server := range servers {
		if server == nil {
			return fmt.Errorf("httpx: server %d is nil", i)
		}
		entries[i] = entry{server: &Server{Server: server}, secure: hasCertificate(server.TLSConfig)}
	}
	return run(entries...)
}

func hasCertificate(c *tls.Config) bool {
	return c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil)
}

// entry is a server of run.
type entry struct {
	server            *Server
	secure            bool
	certFile, keyFile string
	listener          net.Listener
}

// address returns where to listen.
func (e *entry) address() string {
	switch {
	case e.server.Addr != "":
		return e.server.Addr
	case e.secure:
		return ":https"
	}
	return ":http"
}

// check finds what would fail after the hand-over, when it is too late.
func (e *entry) check() error {
	if !e.secure || hasCertificate(e.server.TLSConfig) && e.certFile == "" && e.keyFile == "" {
		return nil
	}
	_, err := tls.LoadX509KeyPair(e.certFile, e.keyFile)
	return err
}

func (e *entry) serve() error {
	if e.secure {
		return e.server.ServeTLS(e.listener, e.certFile, e.keyFile)
	}
	return e.server.Serve(e.listener)
}

// run is the life of a generation.
func run(entries ...entry) error {
	m, err := mitosis.Init(mitosis.Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	names := map[string]int{}
	for i := range entries {
		e := &entries[i]
		e.server.prepare()
		if err := e.check(); err != nil {
			return fmt.Errorf("httpx: %s: %w", e.address(), err)
		}
		// The name tells which address it was: another order of the servers, or one
		// more, changes nothing for the others.
		name := "http " + e.address()
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("%s #%d", name, names[name])
		}
		if e.listener, err = m.Listen(name, "tcp", e.address()); err != nil {
			return err
		}
	}
	if err := m.Ready(context.Background()); err != nil {
		return err
	}

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var serving sync.WaitGroup
	for _, e := range entries {
		serving.Go(func() { cancel(e.serve()) })
	}
	err = m.Wait(ctx)
	if errors.Is(err, mitosis.ErrSuperseded) || errors.Is(err, mitosis.ErrStopped) || errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	for _, e := range entries {
		serving.Go(func() { e.server.Shutdown(context.Background()) }) // it logs what it cuts
	}
	serving.Wait()
	return err
}
