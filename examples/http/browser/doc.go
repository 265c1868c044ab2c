// Package browser tests the page of examples/http in Chromium. It is a module of its own, so that the library does not
// depend on a browser's client.
package browser
