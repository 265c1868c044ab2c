module github.com/bhuthesh/mitosis

go 1.25
