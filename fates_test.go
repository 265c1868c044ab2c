//go:build unix

package mitosis

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// What can become of a new process in place of Init.
func init() {
	fates["wait"] = func(a *application) { a.hold("fate", "held") }
	fates["exit 0"] = func(*application) { os.Exit(0) }
	fates["exit 3"] = func(*application) { os.Exit(3) }
	fates["panic"] = func(*application) { panic("a new process that panics") }
	fates["overflow its stack"] = func(*application) {
		debug.SetMaxStack(1 << 20)
		fmt.Fprint(os.Stderr, overflow(0))
	}
	fates["hang"] = func(a *application) {
		a.report("hanging", "", nil)
		select {}
	}
	fates["close the link and live"] = func(*application) {
		sys.CloseDescriptor(inherited.link)
		select {}
	}
	fates["close the link and exit"] = func(*application) {
		sys.CloseDescriptor(inherited.link)
		os.Exit(0)
	}
	fates["close the link after JOIN and live"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Join, wire.Joining{Version: wire.MaxVersion, Pid: os.Getpid()}))
		link.Close()
	})
	fates["send garbage"] = func(*application) {
		f := os.NewFile(uintptr(inherited.link), "link")
		f.WriteString("HTTP/1.1 400 Bad Request\r\n\r\n")
		select {}
	}
	fates["send half a frame and exit"] = func(*application) {
		f := os.NewFile(uintptr(inherited.link), "link")
		f.Write([]byte{byte(wire.Join), 0, 0})
		os.Exit(0)
	}
	fates["send a frame of an unknown kind"] = rogue(func(link *wire.Link) {
		link.Send(wire.Frame{Kind: 0x7e})
	})
	fates["send an unknown version"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Join, wire.Joining{Version: wire.MaxVersion + 1, Pid: os.Getpid()}))
	})
	fates["send another pid"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Join, wire.Joining{Version: wire.MaxVersion, Pid: os.Getppid()}))
	})
	fates["send JOIN without sense"] = rogue(func(link *wire.Link) {
		link.Send(wire.Frame{Kind: wire.Join, Payload: []byte(`{"version":`)})
	})
	fates["send READY where JOIN should be"] = rogue(func(link *wire.Link) {
		link.Send(wire.Frame{Kind: wire.Ready})
	})
	fates["send ACK where READY should be"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Join, wire.Joining{Version: wire.MaxVersion, Pid: os.Getpid()}))
		link.Send(message(wire.Want, wire.Wanting{}))
		link.Send(wire.Frame{Kind: wire.Ack})
	})
	fates["send a descriptor with JOIN"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Join, wire.Joining{Version: wire.MaxVersion, Pid: os.Getpid()}, 1))
	})
	fates["refuse and live"] = rogue(func(link *wire.Link) {
		link.Send(message(wire.Refuse, wire.Refusal{Reason: "I would rather not"}))
	})
}

// rogue is a process that speaks for itself on the control link, and then hangs.
func rogue(speak func(*wire.Link)) func(*application) {
	return func(*application) {
		conn, err := sys.UnixConn(inherited.link)
		if err != nil {
			panic(err)
		}
		speak(wire.NewLink(conn))
		select {}
	}
}

func message(kind wire.Kind, v any, descriptors ...int) wire.Frame {
	frame, err := wire.Message(kind, v, descriptors...)
	if err != nil {
		panic(err)
	}
	return frame
}

//lint:ignore SA5007 it is meant to
func overflow(n int) int { return overflow(n+1) + n }
