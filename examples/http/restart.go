package main

import (
	"net"
	"net/http"
	"os"
	"syscall"
)

// restart does what "kill -HUP" does. The answer does not wait for the outcome.
func restart(w http.ResponseWriter, _ *http.Request) {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(syscall.SIGHUP)
	}
	if err != nil {
		http.Error(w, "restart: "+err.Error(), http.StatusNotImplemented)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// fromThisMachine turns away requests from other machines, and those that a page of another site has made a browser
// on this one send.
func fromThisMachine(next http.Handler) http.Handler {
	next = http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A name that its owner points at 127.0.0.1 makes his page one of this site: only our own names will do.
		if !isLoopback(r.RemoteAddr) || !isLoopback(r.Host) {
			http.Error(w, "only for this machine", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback says whether an address, with or without a port, is one of this machine alone.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if n := len(host); n > 1 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
