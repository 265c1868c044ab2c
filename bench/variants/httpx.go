//go:build ignore

// This file waits for the package httpx. When there is one, these five lines and the build constraint go, the table in
// README.md gets its row, and the variant is measured like the others:
//
//	| httpx | `httpx.ListenAndServe`, which moves idle connections to the new process | SIGHUP |

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
