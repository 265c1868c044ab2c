// Package httpx restarts an http.Server so that no client can notice: open
// keep-alive connections go on in the new process.
//
//	if err := httpx.ListenAndServe(":8080", handler); err != nil {
//		log.Fatal(err)
//	}
//
// SIGHUP starts the program anew and hands over to it, SIGTERM stops it. A client
// with an open HTTP/1.1 connection sends its next request to the new process, on
// the same connection. What becomes of a connection at a restart:
//
//   - idle between two requests, or new and still silent: it moves at once, with
//     the bytes of the next request that have come already
//   - with a request under way: it moves when the response is complete
//   - HTTP/2: it gets GOAWAY at once, and its streams end in the old process
//   - HTTPS: a connection that has sent nothing yet moves; the others are told
//     Connection: close in their next response, and end in the old process
//   - hijacked: it ends in the old process, unless the application has given it to
//     [mitosis.Registry.AddConn]; functions of RegisterOnShutdown are called at once
//
// The old process exits when its last connection is gone, or after
// [Server.DrainTimeout].
//
// ConnState, ConnContext and http.Hijacker see connections of this package: they
// have the methods of *net.TCPConn or *net.UnixConn, and NetConn returns the
// connection beneath. For a connection that moves ConnState reports StateClosed in
// the old process and StateNew in the new one, where it appears with its next
// request.
package httpx
