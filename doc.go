// Package mitosis restarts a running program so that nobody notices: the process
// starts its own binary again, hands the new process its listening sockets, its
// live connections and its state, and goes away.
//
//	m, err := mitosis.Init(mitosis.Options{})           // join the chain of generations
//	ln, err := m.Listen("web", "tcp", ":8080")          // inherited, or opened
//	err = m.State("hits", mitosis.Gob(&hits))           // saved there, loaded here
//	err = m.Ready(ctx)                                  // take over from the old process
//	go serve(ln)
//	err = m.Wait(ctx)                                   // SIGHUP or SIGUSR2 splits
//
// # Words
//
// A generation is one process of the chain, counted from 1. A socket is a named
// thing that the registry keeps: a listener, a packet conn, a file. A live
// connection is a [Conn]. A split starts the next generation and hands over to it.
// The new process warms up until it calls Ready, while the old one serves. Then
// comes the cut, the short time in which the old one is at rest and states and
// connections move, and at its end the commit, the moment in which the ownership
// changes. Afterwards the old process drains what is left to it, and exits.
//
// # Promises
//
//   - Nothing accepted is dropped: a listening socket is never closed between
//     generations, so its queue survives.
//   - A failed split changes nothing: [Registry.Split] returns an error that says
//     what happened, and the old process serves on.
//   - One owner at every instant: each byte of a connection is read by exactly one
//     generation, and sent once.
//   - The new generation takes nothing before the commit.
//   - Nothing leaks: no descriptor, environment variable, goroutine, zombie,
//     socket file or secret.
//   - Closing means closing: the peer sees the end when the application closes.
//   - One split at a time, and errors that errors.Is tells apart.
//
// # Rules for the application
//
// Names say what a socket is, not where: declare the same names in every
// generation, before Ready. States are declared before Ready, live connections
// exist from Ready on; the other order is an error in every generation, so that it
// shows on the first run.
//
// When [Registry.Wait] has returned, drain and return from main: the process has
// done its part. Call Wait, or set Options.StopSignals to an empty slice: the
// signals are caught from Init on.
//
// An application whose state has to agree with what it has read and written uses
// [Locked] and [Conn].
//
// An http.Server is served by package httpx, which hands its connections over as
// well. [Listener.Forward] does the same for a protocol of one's own.
//
// # Systems
//
// Linux, macOS and the BSDs. On others everything builds and serves, and Split
// returns an error that matches errors.ErrUnsupported.
package mitosis
