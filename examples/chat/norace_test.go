//go:build !race

package main

const crowdSize = 5000
