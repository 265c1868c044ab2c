// Package mitosis restarts a running program so that nobody notices.
package mitosis
