//go:build unix

package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"
)

func TestWhatAClientMayNotSendEndsItsConnectionWithTheReason(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "-message", "1000")
	watcher := p.newcomer("hall", "watcher", false)
	long := frame(ws.OpText, true, make([]byte, 1001))
	for _, c := range []struct {
		name string
		sent []byte
		code ws.StatusCode
	}{
		{"an unmasked frame", ws.MustCompileFrame(ws.NewTextFrame([]byte("x"))), ws.StatusProtocolError},
		{"reserved bits", append([]byte{0xc1}, frame(ws.OpText, true, nil)[1:]...), ws.StatusProtocolError},
		{"a continuation of nothing", frame(ws.OpContinuation, true, nil), ws.StatusProtocolError},
		{"a text in a text", append(frame(ws.OpText, false, nil), frame(ws.OpText, true, nil)...), ws.StatusProtocolError},
		{"a ping in pieces", frame(ws.OpPing, false, nil), ws.StatusProtocolError},
		{"a length with its first bit", []byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, ws.StatusProtocolError},
		{"a close code that is not to be sent", frame(ws.OpClose, true, ws.NewCloseFrameBody(1005, "")), ws.StatusProtocolError},
		{"a binary message", frame(ws.OpBinary, true, []byte("x")), ws.StatusUnsupportedData},
		{"a text that is not UTF-8", frame(ws.OpText, true, []byte{'x', 0xff}), ws.StatusInvalidFramePayloadData},
		{"the header of a long message", long[:8], ws.StatusMessageTooBig},
		{"a long message in pieces", append(frame(ws.OpText, false, make([]byte, 999)), frame(ws.OpContinuation, true, make([]byte, 2))...), ws.StatusMessageTooBig},
	} {
		somebody := p.newcomer("hall", "somebody", false)
		_, err := somebody.Write(c.sent)
		require.NoError(t, err)
		for err == nil {
			_, _, err = somebody.next()
		}
		require.ErrorIs(t, err, errClosed, c.name)
		require.Equal(t, c.code, somebody.closed, c.name)
		require.NoError(t, somebody.CloseWrite())
		rest, err := io.ReadAll(somebody.in)
		require.NoError(t, err, c.name)
		require.Empty(t, rest, c.name)
		require.NoError(t, watcher.hears("* somebody has joined", "* somebody has left"), c.name)
	}
	largest := p.newcomer("hall", "largest", false)
	require.NoError(t, watcher.hears("* largest has joined"))
	require.NoError(t, largest.say(strings.Repeat("x", 1000)))
	require.NoError(t, watcher.hears("largest "+strings.Repeat("x", 1000)))
	require.NoError(t, largest.leave())
	require.NoError(t, watcher.leave())
	p.stop()
}

func TestARequestThatMayNotJoinIsToldSoAndTheConnectionGoesOn(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	c := p.newRaw()
	right := request("hall", "anna")
	for _, r := range []struct {
		request string
		status  int
	}{
		{strings.Replace(right, "Upgrade: websocket\r\n", "", 1), http.StatusBadRequest},
		{strings.Replace(right, "Version: 13", "Version: 12", 1), http.StatusUpgradeRequired},
		{strings.Replace(right, "hall", "a%0Ab", 1), http.StatusBadRequest},
		{strings.Replace(right, "Host: chat", "Host: chat\r\nOrigin: http://elsewhere", 1), http.StatusForbidden},
		{"GET / HTTP/1.1\r\nHost: chat\r\n\r\n", http.StatusOK},
		{"GET /page.js HTTP/1.1\r\nHost: chat\r\n\r\n", http.StatusOK},
	} {
		_, err := io.WriteString(c, r.request)
		require.NoError(t, err)
		response, err := http.ReadResponse(c.in, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		require.Equal(t, r.status, response.StatusCode, r.request)
	}
	_, err := io.WriteString(c, strings.Replace(right, "Host: chat", "Host: chat\r\nOrigin: http://chat", 1))
	require.NoError(t, err)
	require.NoError(t, c.enter("anna"))
	other := p.newRaw()
	_, err = io.WriteString(other, right)
	require.NoError(t, err)
	require.NoError(t, other.enter("anna_"), "a name is there once in a room")
	require.NoError(t, other.leave())
	require.NoError(t, c.leave())
	p.stop()
}

func TestAClientThatTakesNothingIsDropped(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "-queue", "2000000")
	slow := p.newcomer("hall", "slow", true)
	anna := p.newcomer("hall", "anna", false)
	require.NoError(t, slow.hears("* anna has joined"))
	text := strings.Repeat("x", 1<<20)
	said := 0
	for dropped := false; !dropped; said++ {
		require.Less(t, said, 100)
		require.NoError(t, anna.say(text))
		require.NoError(t, anna.hears("anna "+text))
		require.NoError(t, anna.send(ws.OpPing, true, "?"))
		opcode, heard, err := anna.next()
		require.NoError(t, err)
		if dropped = opcode == ws.OpText; dropped {
			require.Equal(t, "* slow has left", heard)
			require.NoError(t, anna.hearsPong("?"))
		}
	}
	p.restart()
	p.reapNext()
	for range said - 1 { // what was in the queue before
		require.NoError(t, slow.hears("anna "+text))
	}
	require.NoError(t, slow.hearsClose(ws.NewCloseFrameBody(errTooSlow.code, errTooSlow.reason)))
	require.NoError(t, anna.leave())
	p.stop()
}

func TestABadFlagIsRefused(t *testing.T) {
	t.Parallel()
	path, err := os.Executable()
	require.NoError(t, err)
	for _, argument := range []string{"-message=0", "-queue=-1", "-no-such-flag", "word"} {
		command := exec.Command(path, argument)
		command.Env = append(os.Environ(), programVariable+"=1", "GORACE=atexit_sleep_ms=0")
		output, err := command.CombinedOutput()
		require.Error(t, err)
		require.Equal(t, 2, command.ProcessState.ExitCode(), "%s: %s", argument, output)
	}
}
