// Package compat holds the tests that two versions of the library hand over to
// each other: the one in this directory tree, the one of an earlier commit, which
// testdata/earlier.tar.gz holds, and ones that are yet to come. They are the same
// program (service), built against each of them.
package compat
