package mitosis

import (
	"fmt"
	"os"

	"github.com/bhuthesh/mitosis/internal/sys"
	"github.com/bhuthesh/mitosis/internal/wire"
)

// inheritance is what this process was started with.
type inheritance struct {
	child   bool // there is a control link, and it is ours
	link    int
	hello   wire.Greeting
	sockets []namedDescriptor
	err     error  // it cannot be trusted: Init fails
	warning string // there was something, and it was left alone
}

// inherited is filled in before main, and before other packages that import this
// one, so that no program that they start can see the variables or descriptors.
// Init takes it.
var inherited = inherit(takeVariables())

// inherit checks the variables against the control link that they name. Until the
// nonce on the link has been seen to be the one in the variables, no descriptor is
// touched; until the digest has, none but the link is.
func inherit(variables []string) inheritance {
	if len(variables) == 0 {
		return inheritance{}
	}
	ignored := func(err error) inheritance {
		return inheritance{warning: fmt.Sprintf("environment variables of a hand-over were ignored: %v", err)}
	}
	env, parseErr := parseVariables(variables)
	if env.link == 0 {
		return ignored(parseErr)
	}
	var b [wire.HelloSize]byte
	n, err := sys.PeekLink(env.link, b[:])
	if err != nil {
		return ignored(fmt.Errorf("descriptor %d is not a control link: %w", env.link, err))
	}
	hello, err := wire.DecodeHello(b[:n])
	if err != nil {
		return ignored(fmt.Errorf("descriptor %d is not a control link: %w", env.link, err))
	}
	if hello.Nonce != env.nonce {
		return inheritance{err: fmt.Errorf("%w: the nonce in %s is not the one on the control link", ErrEnvironment, linkVariable)}
	}
	if err := checkSetID(env.link); err != nil {
		return inheritance{err: fmt.Errorf("%w: %w", ErrEnvironment, err)}
	}
	in := inheritance{child: true, link: env.link, hello: hello, sockets: env.sockets}
	if err := sys.SetCloseOnExec(env.link); err != nil {
		in.err = fmt.Errorf("%w: control link: %w", ErrEnvironment, err)
		return in
	}
	if parseErr != nil {
		in.err = fmt.Errorf("%w: %w", ErrEnvironment, parseErr)
		return in
	}
	if digest(variables) != hello.Digest {
		in.err = fmt.Errorf("%w: the variables are not those that the old process (pid %d) set", ErrEnvironment, hello.Pid)
		return in
	}
	for _, s := range env.sockets {
		if err := sys.SetCloseOnExec(s.descriptor); err != nil {
			in.err = fmt.Errorf("%w: socket %q, descriptor %d: %w", ErrEnvironment, s.name, s.descriptor, err)
			return in
		}
	}
	return in
}

// checkSetID refuses, in a program that runs with more rights than the user has who
// started it (set-user-ID, set-group-ID), what that user hands over: sockets and
// states come from a process with the same rights, or from root.
func checkSetID(link int) error {
	user, group := os.Geteuid(), os.Getegid()
	if user == os.Getuid() && group == os.Getgid() {
		return nil
	}
	uid, gid, err := sys.PeerIDs(link)
	if err != nil {
		return fmt.Errorf("a set-user-ID or set-group-ID program, and the old process is not known: %w", err)
	}
	if uid != 0 && (uid != user || gid != group) {
		return fmt.Errorf("a set-user-ID or set-group-ID program (%d:%d) takes nothing over from a process with the rights of %d:%d", user, group, uid, gid)
	}
	return nil
}
