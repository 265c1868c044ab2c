//go:build unix

package mitosis

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	// It reports the next signal of that kind, when the registry has it too.
	functions["notice"] = func(a *application, args []string) (string, error) {
		number, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		noticed := make(chan os.Signal, 1)
		signal.Notify(noticed, syscall.Signal(number))
		go func() {
			<-noticed
			signal.Stop(noticed) // returns when the signal is with everybody
			a.report("noticed", "", nil)
		}()
		return "", nil
	}
}

// catches sends a signal and waits until the process has caught it.
func (p *generation) catches(s syscall.Signal) {
	p.t.Helper()
	p.do("notice", strconv.Itoa(int(s)))
	p.signal(s)
	p.await("noticed")
}

// begins starts a split by a signal or a call of the application.
func (p *generation) begins(how string) {
	p.t.Helper()
	if how == "signal" {
		p.signal(syscall.SIGHUP)
	} else {
		p.begin("split")
	}
}

func TestTwoSplitSignalsAtOnceAreOneSplitOrTwo(t *testing.T) {
	t.Parallel()
	first := start(t, web())
	address := first.do("address", "web")
	first.signal(syscall.SIGHUP)
	first.signal(syscall.SIGHUP)
	first.generation().await("serving")
	require.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
	first.awaitEnd()
	assert.Contains(t, []int{2, 3}, dial(t, "tcp", address).ask("who").Generation)
	assert.NotContains(t, first.log(), "split failed")
	assert.NotContains(t, first.log(), "could not be passed on")
}

func TestASplitSignalDuringASplitIsNeverLost(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"signal", "call"} {
		t.Run("begun by a "+how, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			first.plans(web(warm))
			first.begins(how)
			second := first.generation()
			second.await("warm")
			first.catches(syscall.SIGHUP)
			first.plans(web())
			second.do("release", "ready")
			third := first.generation()
			third.await("serving")
			third.isGeneration(3)
			require.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
			require.ErrorIs(t, second.await("waited").Error, ErrSuperseded)
		})
	}
}

func TestAStopSignalDuringASplitLeavesNoNewProcess(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"signal", "call"} {
		t.Run("begun by a "+how, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(func(p *plan) { p.Stay = true }))
			first.plans(web(warm))
			first.begins(how)
			second := first.generation()
			second.await("warm")
			first.signal(syscall.SIGTERM)
			require.ErrorIs(t, first.await("waited").Error, ErrStopped)
			assert.Empty(t, childrenOf(first.pid), "the new process is reaped")
			awaitClosed(t, second.gone, "the new process to end")
		})
	}
}

func TestAStopSignalAfterTheTokenWasTakenStopsTheNewProcess(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"signal", "call"} {
		t.Run("begun by a "+how, func(t *testing.T) {
			t.Parallel()
			first := start(t, web())
			first.plans(web(at(stepNewToken, "hold")))
			first.begins(how)
			second := first.generation()
			second.await("held")
			first.catches(syscall.SIGTERM)
			first.awaitLog("the new process has the token and has not acknowledged yet")
			second.do("release", stepNewToken)
			require.ErrorIs(t, first.await("waited").Error, ErrSuperseded)
			require.ErrorIs(t, second.await("waited").Error, ErrStopped)
			first.awaitEnd()
			second.awaitEnd()
		})
	}
}

func TestAStopSignalAtTheCommitEndsBothWhoeverOwns(t *testing.T) {
	t.Parallel()
	for _, step := range []string{stepOldReady, stepOldCommitted} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			first := start(t, web(at(step, "hold")))
			address := first.do("address", "web")
			first.plans(web())
			first.begins("signal")
			second := first.generation()
			first.await("held")
			first.catches(syscall.SIGTERM)
			first.do("release", step)
			err := first.await("waited").Error
			require.NotNil(t, err)
			if err.Is(ErrSuperseded) {
				require.ErrorIs(t, second.await("waited").Error, ErrStopped)
			} else {
				require.ErrorIs(t, err, ErrStopped)
			}
			awaitClosed(t, second.gone, "the new process to end")
			first.awaitEnd()
			refuses(t, "tcp", address)
		})
	}
}

func TestSignalsThatWereNotAskedForKeepTheirDefaultAction(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(s) {
				t.Skip("whoever started the tests ignores the signal, as nohup does, and so do their programs")
			}
			first := start(t, web(func(p *plan) { p.Options.NoSignals = true }))
			first.signal(s)
			first.awaitEnd()
			status := first.first.ProcessState.Sys().(syscall.WaitStatus)
			require.True(t, status.Signaled(), "%v", first.first.ProcessState)
			assert.Equal(t, s, status.Signal())
		})
	}
}
