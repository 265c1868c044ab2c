package mitosis

import (
	"fmt"

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
