module github.com/bhuthesh/mitosis/examples/websocket

go 1.25

replace github.com/bhuthesh/mitosis => ../..

require (
	github.com/bhuthesh/mitosis v0.0.0-00010101000000-000000000000
	github.com/gobwas/ws v1.4.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/sys v0.41.0
)

require (
	github.com/gobwas/httphead v0.1.0 // indirect
	github.com/gobwas/pool v0.2.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
