package variants

import (
	"fmt"
	"net/http"
	"os"

	"github.com/bhuthesh/mitosis/bench/service"
)

// serveCommand is the first argument of a process that is to serve.
const serveCommand = "serve"

// served is a way to serve in Go; serve returns when the process has nothing left to do.
type served struct {
	name        string
	description string
	serve       func(address string) error
}

// kept are those that restart, in the order of the table.
var kept []served

// Serve serves and ends the process if args, the arguments of the program, ask for it; if not, it returns.
func Serve(args []string) {
	if len(args) != 3 || args[0] != serveCommand {
		return
	}
	if err := serve(args[1], args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(name, address string) error {
	if name == "plain" {
		return http.ListenAndServe(address, service.Handler(1))
	}
	for _, k := range kept {
		if k.name == name {
			return k.serve(address)
		}
	}
	return fmt.Errorf("nothing to serve is called %q", name)
}
