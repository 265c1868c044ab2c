package mitosis

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bhuthesh/mitosis/internal/sys"
)

// process is a new generation, seen from the old one.
type process interface {
	Pid() int
	Kill() error
	Wait() string // reaps it and says how it ended
}

// launcher starts new generations. Each descriptor that is handed to start is a
// close-on-exec duplicate.
type launcher interface {
	// number returns how the new process will know the i-th of the descriptors.
	number(i, descriptor int) int
	// start starts the command. The descriptors stay the caller's.
	start(c *Command, descriptors []int) (process, error)
}

// origin is how this process was started, as it was before anybody could change
// the working directory.
var origin = findOrigin()

type startedAs struct {
	path string
	dir  string
	args []string
}

func findOrigin() startedAs {
	var o startedAs
	o.dir, _ = os.Getwd()
	if len(os.Args) == 0 {
		o.path, _ = os.Executable()
		return o
	}
	o.args = append([]string(nil), os.Args[1:]...)
	o.path = os.Args[0]
	if !strings.ContainsRune(o.path, os.PathSeparator) {
		found, err := exec.LookPath(o.path)
		if err != nil {
			// The caller chose a name that is no path; only the system knows better.
			o.path, _ = os.Executable()
			return o
		}
		o.path = found
	}
	if !filepath.IsAbs(o.path) {
		// Not cleaned: behind a symbolic link, dir/.. is not what it looks like.
		o.path = o.dir + string(os.PathSeparator) + o.path
	}
	return o
}

// command returns what Split starts.
func (m *Registry) command(args []string) (*Command, error) {
	c := &Command{
		Path: origin.path,
		Args: append([]string(nil), origin.args...),
		Env:  withoutVariables(os.Environ()),
		Dir:  origin.dir,
	}
	if len(args) > 0 {
		c.Args = append([]string(nil), args...)
	}
	if m.options.Command != nil {
		if err := guard("Options.Command", func() error { return m.options.Command(c) }); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// execLauncher starts a program.
type execLauncher struct{}

func (execLauncher) number(i, _ int) int { return firstDescriptor + i }

func (execLauncher) start(c *Command, descriptors []int) (process, error) {
	if c.Dir != "" {
		if info, err := os.Stat(c.Dir); err != nil {
			return nil, fmt.Errorf("working directory: %w", err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("working directory: %s is not a directory", c.Dir)
		}
	}
	argv := append([]string{c.Path}, c.Args...)
	files := append([]int{0, 1, 2}, descriptors...)
	p, err := sys.Start(c.Path, argv, c.Dir, append(withoutVariables(c.Env), c.ownVariables...), files)
	if err != nil {
		return nil, err // not a nil *sys.Process in a process
	}
	return p, nil
}
