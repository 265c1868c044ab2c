package variants

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"text/template"
)

// proxy is a proxy of somebody else's before a service that never restarts. Its master process stays; its
// children face the clients, and are replaced.
type proxy struct {
	address string
	service *goService
	program *program
	restart os.Signal

	retired []int // children that were asked to go
}

// settings is what a configuration needs to know.
type settings struct {
	Directory string
	Address   string // of the proxy
	Service   string // address of the service
	Root      bool
	Close     bool // tell idle clients to close with their next answer
}

// proxied says which program is to be started.
type proxied struct {
	name          string
	configuration *template.Template
	args          func(directory, configuration string) []string
	restart       os.Signal
	closes        bool
}

func (x proxied) start(ctx context.Context, directory string) (Instance, error) {
	path, err := find(x.name)
	if err != nil {
		return nil, err
	}
	service, err := newService(ctx, directory, "plain")
	if err != nil {
		return nil, err
	}
	p := &proxy{service: service, restart: x.restart}
	if err := p.launch(ctx, x, path, directory); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

func (p *proxy) launch(ctx context.Context, x proxied, path, directory string) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	p.address = address
	var text bytes.Buffer
	err = x.configuration.Execute(&text, settings{
		Directory: directory,
		Address:   address,
		Service:   p.service.address,
		Root:      os.Geteuid() == 0,
		Close:     x.closes,
	})
	if err != nil {
		return err
	}
	configuration := filepath.Join(directory, x.name+".conf")
	if err := os.WriteFile(configuration, text.Bytes(), 0o600); err != nil {
		return err
	}
	p.program, err = launch(directory, x.name, path, x.args(directory, configuration)...)
	if err != nil {
		return err
	}
	return p.program.answers(ctx, address)
}

func (p *proxy) Address() string { return p.address }

func (p *proxy) Processes() ([]int, error) {
	pids, err := children(p.program.pid)
	return slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(p.retired, pid) }), err
}

func (p *proxy) Restart() error {
	pids, err := p.Processes()
	if err != nil {
		return err
	}
	p.retired = append(p.retired, pids...)
	return send(p.program.pid, p.restart)
}

func (p *proxy) Stop() error {
	var err error
	if p.program != nil {
		pids, _ := children(p.program.pid)
		err = p.program.end(p.program.pid, syscall.SIGTERM, append(pids, p.program.pid))
	}
	return errors.Join(err, p.service.Stop())
}
