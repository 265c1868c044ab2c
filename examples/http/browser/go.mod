module github.com/bhuthesh/mitosis/examples/http/browser

go 1.25

replace github.com/bhuthesh/mitosis => ../../..

tool github.com/bhuthesh/mitosis/examples/http

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/sys v0.41.0
)

require (
	github.com/bhuthesh/mitosis v0.0.0-00010101000000-000000000000 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
