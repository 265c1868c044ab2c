package mitosistest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

var quiet = mitosis.Options{Logger: slog.New(slog.DiscardHandler)}

// counter is an application: a listener that answers each connection with a number.
type counter struct {
	n  int
	ln net.Listener
}

func (c *counter) start(m *mitosis.Registry) (err error) {
	if c.ln, err = m.Listen("count", "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if err := m.State("n", mitosis.Gob(&c.n)); err != nil {
		return err
	}
	return m.Ready(context.Background())
}

// serve answers one connection, dialled at addr.
func (c *counter) serve(t *testing.T, addr net.Addr) string {
	t.Helper()
	client, err := net.Dial("tcp", addr.String())
	require.NoError(t, err)
	defer client.Close()
	conn, err := c.ln.Accept()
	require.NoError(t, err)
	c.n++
	fmt.Fprint(conn, c.n)
	require.NoError(t, conn.Close())
	answer, err := io.ReadAll(client)
	require.NoError(t, err)
	return string(answer)
}

func TestStateAndListenerReachTheNextGeneration(t *testing.T) {
	t.Parallel()
	var first, second, third counter
	m := mitosistest.New(t, quiet)
	require.NoError(t, first.start(m))
	require.Equal(t, "1", first.serve(t, first.ln.Addr()))

	m2, err := mitosistest.Split(t, m, second.start)
	require.NoError(t, err)
	require.Equal(t, 2, m2.Generation())
	require.Equal(t, first.ln.Addr().String(), second.ln.Addr().String())
	require.Equal(t, "2", second.serve(t, first.ln.Addr()))
	_, err = first.ln.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, err, mitosis.ErrSuperseded)

	_, err = mitosistest.Split(t, m2, third.start)
	require.NoError(t, err)
	require.Equal(t, "3", third.serve(t, first.ln.Addr()))
}

func TestAGenerationThatReturnsBeforeReadyHasExited(t *testing.T) {
	t.Parallel()
	var app counter
	m := mitosistest.New(t, quiet)
	require.NoError(t, app.start(m))
	broken := errors.New("no database")
	_, err := mitosistest.Split(t, m, func(*mitosis.Registry) error { return broken })
	require.ErrorIs(t, err, mitosis.ErrChildExited)
	require.ErrorContains(t, err, "no database")
	_, err = mitosistest.Split(t, m, func(*mitosis.Registry) error { return nil })
	require.ErrorIs(t, err, mitosis.ErrChildExited)
	require.Equal(t, "1", app.serve(t, app.ln.Addr()), "the old generation serves on")

	var next counter
	_, err = mitosistest.Split(t, m, next.start)
	require.NoError(t, err)
	require.Equal(t, "2", next.serve(t, app.ln.Addr()))
}

func TestALoadThatFailsIsReportedToTheOldGeneration(t *testing.T) {
	t.Parallel()
	var app counter
	m := mitosistest.New(t, quiet)
	require.NoError(t, app.start(m))
	_, err := mitosistest.Split(t, m, func(m *mitosis.Registry) error {
		var wrong struct{ Other string }
		if err := m.State("n", mitosis.JSON(&wrong)); err != nil {
			return err
		}
		return m.Ready(context.Background())
	})
	require.ErrorIs(t, err, mitosis.ErrRefused)
	require.ErrorContains(t, err, `state "n": load`)
	require.Equal(t, "1", app.serve(t, app.ln.Addr()))
}

func TestAGenerationThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	var app counter
	m := mitosistest.New(t, quiet)
	require.NoError(t, app.start(m))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := mitosistest.SplitContext(ctx, t, m, func(m *mitosis.Registry) error {
		cancel()
		<-m.Done()
		return m.Ready(context.Background())
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "1", app.serve(t, app.ln.Addr()))
}

func TestRegistriesInOneProcessAreSplitWithThisPackage(t *testing.T) {
	t.Parallel()
	var app counter
	m := mitosistest.New(t, quiet)
	require.NoError(t, app.start(m))
	require.ErrorContains(t, m.Split(t.Context()), "mitosistest.Split")
}
