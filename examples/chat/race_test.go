//go:build race

package main

// crowdSize is smaller here: the race detector ends a program with more than 8,128 goroutines, and the server has two
// for each client.
const crowdSize = 1000
