package variants

import (
	"github.com/bhuthesh/mitosis/bench/service"
	"github.com/bhuthesh/mitosis/httpx"
)

func init() {
	kept = append(kept, served{
		name:        "httpx",
		description: "httpx.ListenAndServe",
		serve: func(address string) error {
			// The registry is httpx's own, so that the handler is not told the generation.
			return httpx.ListenAndServe(address, service.Handler(0))
		},
	})
}
