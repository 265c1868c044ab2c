package mitosis

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// socketOption returns an option of a socket.
func socketOption(c syscall.Conn, level, option int) (value int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if controlErr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, option) }); controlErr != nil {
		return 0, controlErr
	}
	return value, err
}

func init() {
	functions["protocol"] = func(a *application, args []string) (string, error) {
		value, err := socketOption(a.socket(args[0]).(syscall.Conn), unix.SOL_SOCKET, unix.SO_PROTOCOL)
		return strconv.Itoa(value), err
	}
	functions["keep alive"] = func(a *application, args []string) (string, error) {
		ln := a.socket(args[0]).(net.Listener)
		c, err := ln.Accept()
		if err != nil {
			return "", err
		}
		defer c.Close()
		on, err := socketOption(c.(syscall.Conn), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		if err != nil {
			return "", err
		}
		idle, err := socketOption(c.(syscall.Conn), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		return fmt.Sprintf("%d, %d s", on, idle), err
	}
}

func TestAnMPTCPListenerStaysOne(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skipf("this kernel has no MPTCP: %v", err)
	}
	unix.Close(fd)
	first := start(t, web())
	protocol := strconv.Itoa(unix.IPPROTO_MPTCP)
	require.Equal(t, protocol, first.do("protocol", "web"), "Go's default for listeners")
	second := first.split()
	assert.Equal(t, protocol, second.do("protocol", "web"))
	third := second.split()
	assert.Equal(t, protocol, third.do("protocol", "web"))
	assert.Equal(t, 3, third.dial("web").ask("a").Generation)
}

func TestAnAbstractSocketServesOverThreeGenerations(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("@mitosis test %d", os.Getpid())
	first := start(t, web(listenTo("listen", "unix", name)))
	serveThreeGenerations(t, first, "unix")
}

func TestAnAbstractSocketIsFreeAgainWhenTheLastOwnerCloses(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("@mitosis test of closing %d", os.Getpid())
	first := start(t, web(listenTo("listen", "unix", name)))
	second := first.split()
	first.awaitEnd()
	second.do("close registry")
	refuses(t, "unix", name)
	ln, err := net.Listen("unix", name)
	require.NoError(t, err)
	ln.Close()
}

func TestAMemoryFileIsInheritedWithContentAndOffset(t *testing.T) {
	t.Parallel()
	first := start(t, files(plannedSocket{"memory", "file", "memory", ""}))
	first.do("write", "memory", "one ")
	second := first.split()
	second.do("write", "memory", "two")
	second.do("rewind", "memory")
	assert.Equal(t, "one", second.do("read", "memory", "3"))
	third := second.split()
	assert.Equal(t, " two", third.do("read", "memory", "4"))
}

func TestAcceptedConnectionsHaveTheKeepAliveSettingsOfTheOptionsInEveryGeneration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		period time.Duration
		want   string
	}{
		{"default", 0, "1, 15 s"},
		{"a minute", time.Minute, "1, 60 s"},
		{"off", -1, "0, "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			current := start(t, web(idle, func(p *plan) { p.Options.KeepAlive = c.period }))
			for range 3 {
				current.dial("web")
				assert.Contains(t, current.do("keep alive", "web"), c.want)
				current = current.split()
			}
		})
	}
}
