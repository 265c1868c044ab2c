package variants

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/bench/service"
)

func init() {
	kept = append(kept, served{
		name:        "shutdown",
		description: "listener handed over, http.Server.Shutdown as the drain",
		serve:       serveShutdown,
	})
}

// serveShutdown is what programs do with a library that hands over listeners and nothing else.
func serveShutdown(address string) error {
	ctx := context.Background()
	m, err := mitosis.Init(mitosis.Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	listener, err := m.Listen("web", "tcp", address)
	if err != nil {
		return err
	}
	if err := m.Ready(ctx); err != nil {
		return err
	}
	server := &http.Server{Handler: service.Handler(m.Generation())}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, mitosis.ErrSuperseded) && !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := m.Wait(ctx); !errors.Is(err, mitosis.ErrSuperseded) && !errors.Is(err, mitosis.ErrStopped) {
		return err
	}
	return server.Shutdown(ctx)
}
