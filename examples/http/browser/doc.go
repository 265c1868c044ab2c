// Package browser tests the page of examples/http in Chromium. It is a module of its own, so that the library does not
// depend on a browser's client.
//
//	go test -count=1 .
//
// The go command does not see that the program it has cached results for has changed: -count=1 makes it test anew.
package browser
