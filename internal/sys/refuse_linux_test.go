package sys

import (
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASocketThatRefusesConnectionsKeepsItsQueue(t *testing.T) {
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": "@mitosis refuse " + t.TempDir()} {
		t.Run(network, func(t *testing.T) {
			l, err := net.Listen(strings.TrimRight(network, "46"), address)
			require.NoError(t, err)
			defer l.Close()
			queued, err := net.Dial(l.Addr().Network(), l.Addr().String())
			require.NoError(t, err)
			defer queued.Close()
			require.NoError(t, RefuseConnections(l.(syscall.Conn)))
			_, err = net.Dial(l.Addr().Network(), l.Addr().String())
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			c, err := l.Accept()
			require.NoError(t, err)
			_, err = io.WriteString(queued, "x")
			require.NoError(t, err)
			require.NoError(t, queued.Close())
			b, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "x", string(b))
			c.Close()
			accepted, empty, err := CloseEmpty(l.(syscall.Conn))
			require.NoError(t, err)
			require.True(t, empty)
			require.Empty(t, accepted)
		})
	}
}

func TestAHandshakeIsFoundByItsPortAndState(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1061 1
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 1062 1
   2: 0100007F:00FF 0100007F:1F92 03 00000000:00000000 01:00000064 00000000     0        0 0 1
   3: short
`
	for port, want := range map[int]bool{0xFF: true, 0xF: false, 0x1F90: false, 0x1F91: false, 0x1F92: false} {
		require.Equal(t, want, hasHandshake(strings.NewReader(table), port), "port %d", port)
	}
}
