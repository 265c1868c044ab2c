// Package hook lets the tests of other packages of this module look into a split.
package hook

// Step is called, if it is not nil, between the steps of a split, with the name of
// the one that has been reached. It is set before the split begins.
var Step func(name string)

// OldSteps and NewSteps are the names of the steps on either side, in their order.
var OldSteps, NewSteps []string
