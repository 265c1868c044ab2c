package main

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed page
var pageFiles embed.FS

// newHandler returns all that the program serves: the service, and a page that shows it to a browser.
func newHandler(s *service) http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+hitPath, s)
	mux.Handle("POST "+hitPath, s)
	mux.Handle("GET /", page(http.FileServerFS(files)))
	mux.Handle("POST /restart", fromThisMachine(http.HandlerFunc(restart)))
	return mux
}

// page serves files that need nothing from elsewhere, and change with the program.
func page(files http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		files.ServeHTTP(w, r)
	})
}
