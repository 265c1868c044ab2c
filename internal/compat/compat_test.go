//go:build unix

package compat

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pairs are versions that understand each other.
var pairs = [][2]string{{earlier, present}, {earlier, later}, {present, later}}

// eachPair runs a test for the pairs, with either as the first.
func eachPair(t *testing.T, test func(t *testing.T, one, other string)) {
	for _, pair := range pairs {
		for _, p := range [][2]string{pair, {pair[1], pair[0]}} {
			t.Run(p[0]+" and "+p[1], func(t *testing.T) {
				t.Parallel()
				test(t, p[0], p[1])
			})
		}
	}
}

func TestTwoVersionsHandOverToEachOther(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, one, other string) {
		p, first := start(t, one)
		versions := []string{one, other, one, other}
		var clients []*client
		for range 4 {
			clients = append(clients, connect(t, first.Web))
		}
		packets := open(t, "udp", first.Packet)
		for i, version := range versions {
			if i > 0 {
				g := p.split(version, i+1)
				require.Equal(t, []string{first.Web, first.Short, first.Packet}, []string{g.Web, g.Short, g.Packet})
			}
			want := fmt.Sprintf("hello %s %d\n", version, i+1)
			require.Equal(t, want, exchange(t, packets, "hello"))
			require.Equal(t, want, exchange(t, open(t, "tcp", first.Web), "hello\n"))
		}
		s := p.state()
		assert.Equal(t, versions, s.History)
		assert.Equal(t, versions, p.journal())
		assert.True(t, s.Blob)
		assert.Equal(t, 300_000, s.BlobSize)
		assert.Equal(t, int64(40*64<<10), s.Streamed)
		for _, c := range clients {
			c.finish(t)
		}
		s = p.state()
		for _, c := range clients {
			assert.Equal(t, c.sent, s.Lines[c.name()], "each line was dealt with once")
		}
	})
}

func TestASplitToAnotherVersionThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, one, other string) {
		p, first := start(t, one)
		c := connect(t, first.Web)
		for _, f := range []struct {
			fate, text      string
			refused, exited bool
		}{
			{"exit", "exit status 3", false, true},
			{"refuse", `state "stream": load: this version cannot read it`, true, false},
			{"exit in the transfer", "exit status 4", false, true},
		} {
			o := p.failSplit(other, f.fate)
			assert.Contains(t, o.Error, f.text)
			assert.Equal(t, []bool{f.refused, f.exited}, []bool{o.Refused, o.Exited}, o.Error)
			require.Equal(t, fmt.Sprintf("hello %s 1\n", one), exchange(t, open(t, "tcp", first.Web), "hello\n"))
		}
		assert.Equal(t, []string{one}, p.journal())
		p.split(other, 2)
		c.finish(t)
		s := p.state()
		assert.Equal(t, c.sent, s.Lines[c.name()])
		assert.Equal(t, []string{one, other}, s.History)
	})
}

func TestAConnectionIsForwardedToAnotherVersionWithItsUnreadBytes(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, one, other string) {
		p, first := start(t, one)
		c, idle := open(t, "tcp", first.Short), open(t, "tcp", first.Short)
		long := strings.Repeat("0123456789", 30_000) // more than a frame of data
		for i, version := range []string{one, other, one} {
			if i > 0 {
				p.split(version, i+1)
				p.awaitOutput("\nforwarded with \"", 2*i) // until then the old one may answer
			}
			want := fmt.Sprintf("hello %s %d\n", version, i+1)
			require.Equal(t, want, exchange(t, idle, "hello\n"))
			if i > 0 {
				_, err := c.Write([]byte("the end\n"))
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("%sthe end %s %d\n", long, version, i+1), readLine(t, c))
			}
			// The answer to the first line says that the second has begun to be read.
			require.Equal(t, want, exchange(t, c, "hello\n"))
			_, err := c.Write([]byte(long))
			require.NoError(t, err)
		}
		p.awaitOutput(`forwarded with ""`, 2)
		p.awaitOutput(`forwarded with "0123456789`, 2)
	})
}

func readLine(t testing.TB, c net.Conn) string {
	t.Helper()
	var got []byte
	b := make([]byte, 64<<10)
	for !strings.HasSuffix(string(got), "\n") {
		n, err := c.Read(b)
		require.NoError(t, err)
		got = append(got, b[:n]...)
	}
	return string(got)
}

// A later version may have given the present one up, and says so; neither process
// guesses.
func TestAVersionThatIsNotUnderstoodIsRefusedAndTheOldProcessServesOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ old, unfit, text, good string }{
		{earlier, future, `no common protocol version: the old process \(pid \d+\) speaks 1 to 1, this program 2 to 2`, present},
		{present, future, `no common protocol version: the old process \(pid \d+\) speaks 1 to 1, this program 2 to 2`, present},
		{future, earlier, `no common protocol version: the old process \(pid \d+\) speaks 2 to 2, this program 1 to 1`, later},
		{future, present, `no common protocol version: the old process \(pid \d+\) speaks 2 to 2, this program 1 to 1`, later},
	} {
		t.Run(c.old+" to "+c.unfit, func(t *testing.T) {
			t.Parallel()
			p, first := start(t, c.old)
			live := connect(t, first.Web)
			o := p.failSplit(c.unfit, "")
			assert.Regexp(t, c.text, o.Error)
			assert.True(t, o.Refused, o.Error)
			assert.Equal(t, c.old != earlier && c.unfit != earlier, o.Version, "the earlier version says it in words only")
			p.awaitOutput("init failed in version "+c.unfit+" (true)", 1)
			require.Equal(t, fmt.Sprintf("hello %s 1\n", c.old), exchange(t, open(t, "tcp", first.Web), "hello\n"))
			p.split(c.good, 2)
			live.finish(t)
			assert.Equal(t, live.sent, p.state().Lines[live.name()])
			assert.Positive(t, live.seen[1])
		})
	}
}

func TestTheArchiveIsWhatTheCommitHolds(t *testing.T) {
	t.Parallel()
	contents := map[string]string{}
	commit, err := readArchive(func(name string, content []byte) error {
		contents[name] = string(content)
		return nil
	})
	require.NoError(t, err)
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{40}$`), commit)
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir = filepath.Join("..", "..")
		out, err := cmd.Output()
		return string(out), err
	}
	if _, err := git("cat-file", "-e", commit); err != nil {
		t.Skipf("the history does not reach back to commit %s: %v", commit, err)
	}
	listed, err := git("ls-tree", "-r", "--name-only", commit)
	require.NoError(t, err)
	library := slices.DeleteFunc(strings.Fields(listed), func(name string) bool {
		inside := !strings.Contains(name, "/") || strings.HasPrefix(name, "internal/")
		return !inside || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go")
	})
	for _, name := range library {
		content, err := git("show", commit+":"+name)
		require.NoError(t, err)
		assert.True(t, content == contents[name], "%s is another", name)
	}
	assert.Len(t, contents, len(library))
}
