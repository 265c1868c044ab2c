package mitosis

import "github.com/bhuthesh/mitosis/internal/hook"

// step is called between the steps of a split, on both sides. Tests replace it, or
// set the hook, to break a process just there.
var step = func(name string) {
	if hook.Step != nil {
		hook.Step(name)
	}
}

func init() { hook.OldSteps, hook.NewSteps = oldSteps, newSteps }

// The steps of the old generation, in their order.
const (
	stepOldStart     = "old: about to start the new process"
	stepOldStarted   = "old: new process started"
	stepOldJoined    = "old: JOIN received"
	stepOldWanted    = "old: WANT received"
	stepOldFrozen    = "old: frozen"
	stepOldSaving    = "old: STATE sent"
	stepOldSaved     = "old: STATEEND sent"
	stepOldCompleted = "old: COMPLETE sent"
	stepOldReady     = "old: READY received"
	stepOldCommitted = "old: COMMIT sent"
	stepOldAcked     = "old: ACK received"
)

// The steps of the new generation, in their order.
const (
	stepNewInit    = "new: in Init"
	stepNewJoined  = "new: JOIN sent"
	stepNewWanting = "new: about to send WANT"
	stepNewWanted  = "new: WANT sent"
	stepNewLoading = "new: STATE received"
	stepNewLoaded  = "new: states loaded"
	stepNewReady   = "new: READY sent"
	stepNewCommit  = "new: COMMIT received"
	stepNewToken   = "new: token taken"
	stepNewAcked   = "new: ACK sent"
	stepNewSettled = "new: SETTLED sent"
)

var oldSteps = []string{
	stepOldStart, stepOldStarted, stepOldJoined, stepOldWanted, stepOldFrozen, stepOldSaving, stepOldSaved,
	stepOldCompleted, stepOldReady, stepOldCommitted, stepOldAcked,
}

var newSteps = []string{
	stepNewInit, stepNewJoined, stepNewWanting, stepNewWanted, stepNewLoading, stepNewLoaded, stepNewReady,
	stepNewCommit, stepNewToken, stepNewAcked, stepNewSettled,
}
