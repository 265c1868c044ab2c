package mitosis_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis"
	"github.com/bhuthesh/mitosis/mitosistest"
)

func TestTheLogHoldsNothingOfConnectionsDatagramsAndStates(t *testing.T) {
	t.Parallel()
	const secret = "do-not-log-me"
	var log syncBuffer
	m := startForCuts(t, mitosis.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ln, err := m.Listen("web", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	pc, err := m.ListenPacket("packet", "udp", "127.0.0.1:0")
	require.NoError(t, err)
	packets, err := net.Dial("udp", pc.LocalAddr().String())
	require.NoError(t, err)
	defer packets.Close()
	_, err = io.WriteString(packets, secret)
	require.NoError(t, err)
	c, peer := connect(t, m, "live", "tcp")
	_, err = io.WriteString(peer, secret+"\nunread "+secret)
	require.NoError(t, err)
	_, err = c.Reader().ReadString('\n')
	require.NoError(t, err)
	require.NotZero(t, c.Reader().Buffered(), "what is behind it has been read, too")
	go c.Reader().ReadString('\n')
	dialled, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer dialled.Close()
	accepted, err := ln.Accept()
	require.NoError(t, err)
	writing := make(chan error, 1)
	slow, slowPeer := connect(t, m, "slow", "tcp")
	go func() {
		_, err := slow.Write([]byte(strings.Repeat(secret, 1<<20))) // more than the socket takes
		writing <- err
	}()
	_, err = io.ReadFull(bounded(t, slowPeer), make([]byte, 1)) // it has begun
	require.NoError(t, err)

	failSplit(t, m)
	failSplitAtTheCut(t, m)
	failCut(t, m, func() {})
	var nextLn net.Listener
	next, err := mitosistest.Split(t, m, func(m *mitosis.Registry) (err error) {
		if nextLn, err = m.Listen("web", "tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		if _, err = m.ListenPacket("packet", "udp", "127.0.0.1:0"); err != nil {
			return err
		}
		return m.Ready(context.Background())
	})
	require.NoError(t, err)
	require.NoError(t, receive(t, writing, "Write"))
	require.NoError(t, ln.(*mitosis.Listener).Forward(accepted, []byte(secret)))
	forwarded, err := nextLn.Accept()
	require.NoError(t, err)
	for want, c := range map[string]net.Conn{secret: forwarded, "unread " + secret: inherit(t, next, "live")} {
		b := make([]byte, len(want))
		_, err = io.ReadFull(bounded(t, c), b)
		require.NoError(t, err)
		require.Equal(t, want, string(b), "it was under way")
	}
	inherit(t, next, "slow")
	_, err = io.CopyN(io.Discard, bounded(t, slowPeer), int64(len(secret))<<20-1)
	require.NoError(t, err)
	require.NoError(t, next.Close())
	require.NoError(t, m.Close())
	assert.NotContains(t, log.String(), secret)
	assert.NotContains(t, log.String(), fmt.Sprintf("%x", secret))
	assert.Contains(t, log.String(), "DEBUG")
	assert.Contains(t, log.String(), errOnPurpose.Error())
}

func TestTheOwnerAndThePermissionsOfAUnixSocketStayThroughSplits(t *testing.T) {
	t.Parallel()
	directory, err := os.MkdirTemp("", "mitosis")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(directory) })
	path := filepath.Join(directory, "socket")
	declare := func(m *mitosis.Registry) error {
		if _, err := m.Listen("web", "unix", path); err != nil {
			return err
		}
		return m.Ready(context.Background())
	}
	m := mitosistest.New(t, quiet)
	require.NoError(t, declare(m))
	require.NoError(t, os.Chmod(path, 0o600))
	before, err := os.Lstat(path)
	require.NoError(t, err)
	for range 3 {
		m, err = mitosistest.Split(t, m, declare)
		require.NoError(t, err)
		now, err := os.Lstat(path)
		require.NoError(t, err)
		require.Equal(t, before.Mode(), now.Mode())
		require.True(t, os.SameFile(before, now), "it is never made anew")
	}
}

func TestALinkInThePlaceOfThePIDFileIsReplacedAndNotFollowed(t *testing.T) {
	t.Parallel()
	victim, path := filepath.Join(t.TempDir(), "victim"), filepath.Join(t.TempDir(), "pid")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	link := func() { require.NoError(t, os.Symlink(victim, path)) }
	link()
	m := start(t, mitosis.Options{PIDFile: path, Logger: quiet.Logger})
	isOurs := func() {
		t.Helper()
		info, err := os.Lstat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o644), info.Mode())
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintln(os.Getpid()), string(b))
	}
	isOurs()
	require.NoError(t, os.Remove(path))
	link()
	m = split(t, m)
	isOurs()
	require.NoError(t, os.Remove(path))
	link()
	require.NoError(t, m.Close())
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSymlink, info.Mode().Type(), "it is somebody else's")
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

func TestWhatSomebodyHasPutInThePlaceOfThePIDFileHoldsNothingUp(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(path string) error{
		"a pipe":            func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"a directory":       func(path string) error { return os.Mkdir(path, 0o777) },
		"an endless device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a huge file": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o666), os.Truncate(path, 1<<40))
		},
		"another pid": func(path string) error { return os.WriteFile(path, []byte("1\n"), 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "pid")
			m := start(t, mitosis.Options{PIDFile: path, Logger: quiet.Logger})
			require.NoError(t, os.Remove(path))
			require.NoError(t, put(path))
			closed := make(chan error, 1)
			go func() { closed <- m.Close() }()
			require.NoError(t, receive(t, closed, "Close"))
			_, err := os.Lstat(path)
			require.NoError(t, err, "it is not ours to remove")
		})
	}
}
