//go:build unix

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An ircd is a real IRC server: how to run it and how to tell it to serve the address with the port.
type ircd struct {
	name      string // of the program and of Debian's package
	config    string // with %d for the port
	arguments func(config string) []string
}

var ngircd = ircd{
	name: "ngircd",
	config: `[Global]
Name = irc.test
Info = test
Listen = 127.0.0.1
Ports = %d
MotdPhrase = hello
AdminInfo1 = test
[Limits]
MaxConnectionsIP = 0
MaxNickLength = 20
MaxPenaltyTime = 0
[Options]
DNS = no
Ident = no
PAM = no
`,
	arguments: func(config string) []string { return []string{"-n", "-f", config} },
}

var inspircd = ircd{
	name: "inspircd",
	config: `<server name="irc.test" description="test" network="test" id="1AA">
<admin name="test" nick="test" email="test@irc.test">
<bind address="127.0.0.1" port="%d" type="clients">
<connect allow="*" timeout="30" pingfreq="120" threshold="10000" commandrate="1000000" fakelag="no"
	localmax="100" globalmax="100" resolvehostnames="no" useident="no"
	recvq="1048576" softsendq="1048576" hardsendq="8388608">
<dns server="127.0.0.1" timeout="1">
<log method="stdout" type="*" level="normal">
`,
	arguments: func(config string) []string {
		arguments := []string{"--nofork", "--nopid", "--config", config}
		if os.Getuid() == 0 {
			arguments = append(arguments, "--runasroot")
		}
		return arguments
	},
}

// start runs the server until the test is over and returns its address. extra is added to the configuration.
func (s ircd) start(t *testing.T, extra string) string {
	t.Helper()
	path := findServer(s.name)
	if path == "" {
		t.Skipf("%s is not installed; it is in Debian's package %s", s.name, s.name)
	}
	for range 5 {
		if address, ok := s.tryStart(t, path, extra); ok {
			return address
		}
	}
	require.FailNow(t, s.name+" does not start")
	return ""
}

// findServer looks where servers are too, which is not in everybody's PATH.
func findServer(name string) string {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name, "/usr/bin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

func (s ircd) tryStart(t *testing.T, path, extra string) (address string, ok bool) {
	t.Helper()
	port := freePort(t)
	address = fmt.Sprintf("127.0.0.1:%d", port)
	config := filepath.Join(t.TempDir(), s.name+".conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, s.config+extra, port), 0o600))
	var output bytes.Buffer
	command := exec.Command(path, s.arguments(config)...)
	command.Dir = t.TempDir()
	command.Stdout, command.Stderr = &output, &output
	require.NoError(t, command.Start())
	exited := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(exited)
	}()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			t.Cleanup(func() {
				_ = command.Process.Kill()
				<-exited
				if t.Failed() {
					t.Log(s.name + " says:\n" + output.String())
				}
			})
			return address, true
		}
		select {
		case <-exited: // perhaps the port is not free any more
			t.Log(s.name + " exited:\n" + output.String())
			return "", false
		case <-time.After(10 * time.Millisecond):
		}
	}
	_ = command.Process.Kill()
	<-exited
	t.Log(s.name + " does not listen:\n" + output.String())
	return "", false
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
