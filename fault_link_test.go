//go:build unix

package mitosis

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// Only the old process's death may make an owner of the new one. Its link can also
// be closed by a mistake, as when the application closes a wrong descriptor.
func TestANewProcessWhoseLinkWasClosedTakesNothingWhileTheOldOneLives(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		play func(*impostor)
	}{
		{"before anything has arrived", func(*impostor) {}},
		{"when everything has arrived", func(i *impostor) {
			i.tell(wire.Complete, wire.Completion{})
			i.hear(wire.Ready)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, address := listenerFile(t)
			i := impersonate(t, typeListener, f)
			p := i.start(web(inheriting))
			i.join()
			i.hear(wire.Want)
			dial(t, "tcp", address).say("a")
			c.play(i)
			i.link.Close()
			failed := p.await("ready").Error
			require.NotNil(t, failed)
			assert.ErrorIs(t, failed, ErrProtocol)
			assert.ErrorContains(t, failed, "lives")
			p.awaitEnd()
			ln, err := net.FileListener(f)
			require.NoError(t, err)
			defer ln.Close()
			_, err = ln.Accept()
			assert.NoError(t, err, "the client is still in the queue")
		})
	}
}
