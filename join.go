package mitosis

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// joinTimeout bounds the exchange in Init: the old process waits at the other end.
// Tests shorten it.
var joinTimeout = 10 * time.Second

// join takes up the link to the old process and what was inherited by exec.
func (m *Registry) join(in inheritance) error {
	step(stepNewInit)
	conn, err := sys.UnixConn(in.link)
	if err != nil {
		return fmt.Errorf("%w: control link: %w", ErrEnvironment, err)
	}
	m.predecessor = wire.NewLink(conn)
	m.oldLives.Store(true)
	m.hello = in.hello
	m.generation = int(in.hello.Generation) + 1
	m.log = m.options.Logger.With("pid", os.Getpid(), "generation", m.generation)
	m.predecessor.SetReadDeadline(time.Now().Add(joinTimeout))
	err = in.err
	if err == nil {
		err = m.exchange(in)
	}
	if err != nil {
		m.refuse(err)
		m.predecessor.Close()
		for _, s := range m.inherited {
			sys.CloseDescriptor(s.descriptor)
		}
		return err
	}
	return m.predecessor.SetReadDeadline(time.Time{})
}

// exchange is the conversation of Init.
func (m *Registry) exchange(in inheritance) error {
	first, err := m.predecessor.Receive()
	if err != nil {
		return fmt.Errorf("%w: HELLO: %w", ErrProtocol, err)
	}
	if first.Kind != wire.Hello {
		return fmt.Errorf("%w: %v where HELLO was expected", ErrProtocol, first.Kind)
	}
	version := in.hello.Version()
	if version == 0 {
		return fmt.Errorf("%w: the old process (pid %d) speaks %d to %d, this program %d to %d", ErrVersion,
			in.hello.Pid, in.hello.MinVersion, in.hello.MaxVersion, wire.MinVersion, wire.MaxVersion)
	}
	old := int(in.hello.Pid)
	stranger := old != os.Getppid() && old != os.Getpid() // or the old process is dead
	sockets, err := m.receiveSockets(in.sockets)
	if err != nil {
		return err
	}
	for i, s := range sockets {
		if s.Descriptor != in.sockets[i].descriptor || s.Name != in.sockets[i].name {
			return fmt.Errorf("%w: the old process announced socket %q as descriptor %d, the environment says %q and %d",
				ErrEnvironment, s.Name, s.Descriptor, in.sockets[i].name, in.sockets[i].descriptor)
		}
		if err := checkDescriptor(s); err != nil {
			return fmt.Errorf("%w: socket %q: %w", ErrEnvironment, s.Name, err)
		}
		m.inherited[s.Name] = &inheritedSocket{Socket: s, descriptor: s.Descriptor}
	}
	frame, err := wire.Message(wire.Join, wire.Joining{Version: version, Pid: os.Getpid()})
	if err != nil {
		return err
	}
	switch err := m.predecessor.Send(frame); {
	case err != nil && !isLost(err):
		return err
	case err == nil && stranger:
		return fmt.Errorf("%w: this process (pid %d) was not started by the old one (pid %d) itself; a wrapper has to exec the program", ErrEnvironment, os.Getpid(), old)
	}
	step(stepNewJoined)
	m.log.Info("mitosis: warming up", "predecessor", in.hello.Pid, "sockets", len(sockets))
	return nil
}

// receiveSockets returns what the old process says of the sockets. If it is dead,
// the sockets themselves are asked.
func (m *Registry) receiveSockets(fromEnvironment []namedDescriptor) ([]wire.Socket, error) {
	var sockets []wire.Socket
	for {
		frame, err := m.predecessor.Receive()
		if isLost(err) {
			return describeThemselves(fromEnvironment)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: SOCKETS: %w", ErrProtocol, err)
		}
		if frame.Kind != wire.Sockets {
			return nil, fmt.Errorf("%w: %v where SOCKETS was expected", ErrProtocol, frame.Kind)
		}
		var some wire.Inheritance
		if err := frame.Decode(&some, 0); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if sockets = append(sockets, some.Sockets...); len(sockets) > len(fromEnvironment) || some.Last && len(sockets) < len(fromEnvironment) {
			return nil, fmt.Errorf("%w: it names %d sockets, the old process announced %d", ErrEnvironment, len(fromEnvironment), len(sockets))
		}
		if some.Last {
			return sockets, nil
		}
	}
}

// describeThemselves knows everything but the addresses that were asked for.
func describeThemselves(fromEnvironment []namedDescriptor) ([]wire.Socket, error) {
	sockets := make([]wire.Socket, 0, len(fromEnvironment))
	for _, s := range fromEnvironment {
		kind, err := sys.DescriptorType(s.descriptor)
		if err != nil {
			return nil, fmt.Errorf("%w: socket %q: %w", ErrEnvironment, s.name, err)
		}
		described := wire.Socket{Name: s.name, Descriptor: s.descriptor, Type: typeFile}
		switch kind {
		case sys.StreamListener:
			described.Type = typeListener
		case sys.Packet:
			described.Type = typePacket
		}
		sockets = append(sockets, described)
	}
	return sockets, nil
}

// checkDescriptor refuses a descriptor that is not what it is said to be.
func checkDescriptor(s wire.Socket) error {
	kind, err := sys.DescriptorType(s.Descriptor)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", s.Descriptor, err)
	}
	switch {
	case s.Type == typeListener && kind == sys.StreamListener, s.Type == typePacket && kind == sys.Packet, s.Type == typeFile:
		return nil
	}
	return fmt.Errorf("descriptor %d is not a %s", s.Descriptor, s.Type)
}

// isLost says whether err means that the old process has closed the link, which it
// does only by dying.
func isLost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
