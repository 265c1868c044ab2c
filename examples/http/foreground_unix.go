//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// generations is a service seen by its attendant: a process group with all its generations.
type generations struct {
	group   int           // the pid of the first generation
	reports <-chan report // closed when the last generation has ended
	first   chan error    // how the first ended
}

// startGenerations starts the first generation of this program.
func startGenerations(stdout, stderr *os.File, arguments ...string) (*generations, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	command := exec.Command(path, arguments...)
	command.Env = append(os.Environ(), attendedVariable+"=1")
	command.Stdout, command.Stderr = stdout, stderr
	command.ExtraFiles = []*os.File{theirs} // becomes attendantDescriptor
	// A group of its own: Ctrl-C in the terminal reaches the attendant alone, which passes it on, once.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = command.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, err
	}
	reports := make(chan report)
	g := &generations{group: command.Process.Pid, reports: reports, first: make(chan error, 1)}
	go func() { g.first <- command.Wait() }()
	go func() {
		defer close(reports)
		defer ours.Close()
		for lines := bufio.NewScanner(ours); lines.Scan(); {
			if r, err := parseReport(lines.Text()); err == nil {
				reports <- r
			}
		}
	}()
	return g, nil
}

// socketPair returns two connected sockets that no other program inherits.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range pair {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(pair[0]), "generations"), os.NewFile(uintptr(pair[1]), attendantFile), nil
}

// restart asks the generation that serves to hand over to the next one.
func (g *generations) restart(pid int, signal syscall.Signal) error {
	return os.NewSyscallError("kill", syscall.Kill(pid, signal))
}

// stop signals all generations: those that drain are to end, too. So it does not matter if one that is just taking
// over has not reported yet.
func (g *generations) stop(signal syscall.Signal) error {
	return os.NewSyscallError("kill", syscall.Kill(-g.group, signal))
}

// foreground runs the service and stays until its last generation has ended.
func foreground(arguments []string) error {
	stops, restarts := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stops, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(restarts, syscall.SIGHUP, syscall.SIGUSR2)
	g, err := startGenerations(os.Stdout, os.Stderr, arguments...)
	if err != nil {
		return err
	}
	serving := report{pid: g.group}
	var passOn <-chan os.Signal // nil while nobody is known to serve: a request to restart waits
	announced := false
	for {
		select {
		case r, ok := <-g.reports:
			switch {
			case !ok && serving.pid == 0:
				return nil // stopped in order
			case !ok && serving.pid == g.group:
				return fmt.Errorf("%w: %v", errCrashed, <-g.first)
			case !ok:
				return fmt.Errorf("%w: the last generation was pid %d", errCrashed, serving.pid)
			case r.pid == 0:
				passOn = nil
			case !announced:
				announced = true
				say(os.Stdout, "pid %d stays in the foreground  (restart: kill -HUP %[1]d, stop: Ctrl-C or kill %[1]d)", os.Getpid())
				fallthrough
			default:
				passOn = restarts
			}
			serving = r
		case s := <-passOn:
			err = g.restart(serving.pid, s.(syscall.Signal))
			if errors.Is(err, syscall.ESRCH) { // the report of the next generation is on its way
				passOn, err = nil, nil
				select {
				case restarts <- s:
				default: // there is another one already
				}
			}
		case s := <-stops:
			err = g.stop(s.(syscall.Signal))
		}
		if err != nil {
			say(os.Stderr, "http: %v", err)
			err = nil
		}
	}
}
