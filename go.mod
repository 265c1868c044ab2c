module github.com/bhuthesh/mitosis

go 1.25

require (
	github.com/stretchr/testify v1.12.1
	golang.org/x/net v0.49.0
	golang.org/x/sys v0.41.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
