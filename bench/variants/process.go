package variants

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// patience is how long something that takes milliseconds may take.
const patience = 10 * time.Second

// program is a process that was started here.
type program struct {
	pid    int
	output string        // file with all that it and its descendants have written
	exited chan struct{} // closed when it has ended
	ended  chan struct{} // closed when its descendants have ended too
}

// launch starts a program. Its output goes through a pipe, which shows when the last process that has
// inherited it is gone.
func launch(directory, name, path string, args ...string) (*program, error) {
	output, err := os.Create(filepath.Join(directory, name+".output"))
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, output.Close())
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = writer, writer
	err = cmd.Start()
	_ = writer.Close()
	if err != nil {
		return nil, errors.Join(err, output.Close(), reader.Close())
	}
	p := &program{
		pid:    cmd.Process.Pid,
		output: output.Name(),
		exited: make(chan struct{}),
		ended:  make(chan struct{}),
	}
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	go func() {
		_, _ = io.Copy(output, reader)
		_ = output.Close()
		_ = reader.Close()
		<-p.exited
		close(p.ended)
	}()
	return p, nil
}

// answers waits until the program answers at the address.
func (p *program) answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := whoami(address)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("process %d has ended: %s", p.pid, p.said())
		case <-ctx.Done():
			return fmt.Errorf("process %d does not answer: %w: %s", p.pid, err, p.said())
		}
	}
}

// said returns the last lines that the program has written.
func (p *program) said() string {
	said, err := os.ReadFile(p.output)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// end sends the signal to the process that is in charge, waits until all are gone, and kills those that
// are known if they are not.
func (p *program) end(inCharge int, signal os.Signal, known []int) error {
	err := send(inCharge, signal)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
		reap(p.pid, known)
		return err
	case <-timer.C:
	}
	for _, pid := range append(known, inCharge) {
		_ = send(pid, os.Kill)
	}
	reap(p.pid, known)
	return errors.Join(err, fmt.Errorf("processes that had not ended %s after %v were killed", patience, signal))
}

func send(pid int, signal os.Signal) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	if err := process.Signal(signal); err != nil {
		return fmt.Errorf("%v to process %d: %w", signal, pid, err)
	}
	return process.Release()
}

// freeAddress returns a loopback address that nobody listens on. Its port lies below those that the
// system gives to outgoing connections, so that none of the clients gets it before the server does.
func freeAddress() (string, error) {
	var last error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(18_000))
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
		last = err
	}
	return "", last
}

// whoami asks for the process that answers a new connection.
func whoami(address string) (pid int, err error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /whoami HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, errors.New(response.Status)
	}
	var generation int
	_, err = fmt.Fscan(response.Body, &pid, &generation)
	return pid, err
}

// find returns the path of an installed program; servers are often outside of the path of a user.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, directory := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(directory, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
