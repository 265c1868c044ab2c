// Package variants starts, restarts and stops the same HTTP service in several ways, as real processes.
//
// The Go variants are this program once more: a program that uses the package hands its arguments to Serve
// before it does anything else.
package variants

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
)

// Variant is one way to serve and to restart.
type Variant struct {
	Name        string
	Description string
	Restarts    bool // false for the control

	program string // the program of somebody else's that it needs; empty for none
	start   func(ctx context.Context, directory string) (Instance, error)
}

// Instance is a running variant.
type Instance interface {
	// Address is the TCP address that clients dial.
	Address() string
	// Processes returns the processes that face the clients now, without those that are on their way out.
	Processes() ([]int, error)
	// Restart asks for a restart, the documented way, and does not wait for it.
	Restart() error
	// Stop ends all processes and says what had to be killed.
	Stop() error
}

// Missing says why the variant cannot run here; it is empty if it can.
func (v Variant) Missing() string {
	if v.program == "" {
		return ""
	}
	if runtime.GOOS == "windows" {
		return v.program + " has no restart signal here"
	}
	if _, err := find(v.program); err != nil {
		return err.Error()
	}
	return ""
}

// Version returns the program of somebody else's that the variant needs, and what it says of its version;
// both are empty if there is none.
func (v Variant) Version() (program, version string) {
	if v.program == "" {
		return "", ""
	}
	path, err := find(v.program)
	if err != nil {
		return "", ""
	}
	said, err := exec.Command(path, "-v").CombinedOutput()
	if err != nil {
		return "", ""
	}
	line, _, _ := strings.Cut(string(said), "\n")
	return v.program, strings.TrimSpace(line)
}

// Start starts the variant and returns when it answers. What the processes write, and what they need on
// disk, goes to the directory.
func (v Variant) Start(ctx context.Context, directory string) (Instance, error) {
	instance, err := v.start(ctx, directory)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.Name, err)
	}
	return instance, nil
}

// All lists the variants, the control first.
func All() []Variant {
	all := []Variant{{
		Name:        "control",
		Description: "net/http, never restarted",
		start:       startService("plain"),
	}}
	for _, k := range kept {
		all = append(all, Variant{
			Name:        k.name,
			Description: k.description,
			Restarts:    true,
			start:       startService(k.name),
		})
	}
	return append(all, nginx, haproxy(false), haproxy(true))
}

// Named returns the variant of that name.
func Named(name string) (Variant, error) {
	var names []string
	for _, v := range All() {
		if v.Name == name {
			return v, nil
		}
		names = append(names, v.Name)
	}
	return Variant{}, fmt.Errorf("no variant %q: there are %s", name, strings.Join(names, ", "))
}
