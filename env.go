package mitosis

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// The variables by which a new process learns its descriptors. They are removed
// from the environment before main starts.
const (
	linkVariable    = "MITOSIS_LINK"    // <descriptor>,<nonce in hexadecimal>
	socketsVariable = "MITOSIS_SOCKETS" // <name>=<descriptor>,...; more in MITOSIS_SOCKETS_2 and so on
)

const (
	// maxVariable keeps a variable below the limit that Linux sets for one string
	// of the environment, MAX_ARG_STRLEN of 128 KiB (execve(2)).
	maxVariable = 64 << 10
	// maxDescriptor is far above every limit that systems set (RLIMIT_NOFILE).
	maxDescriptor = 1 << 24
	// firstDescriptor is the number of the control link in the new process.
	firstDescriptor = 3
)

// namedDescriptor is one name=descriptor pair.
type namedDescriptor struct {
	name       string
	descriptor int
}

// environment is what the variables say.
type environment struct {
	link    int
	nonce   [wire.NonceSize]byte
	sockets []namedDescriptor
}

// variables returns the environment as NAME=value strings.
func (e environment) variables() []string {
	variables := []string{fmt.Sprintf("%s=%d,%s", linkVariable, e.link, hex.EncodeToString(e.nonce[:]))}
	var value strings.Builder
	flush := func() {
		if value.Len() > 0 {
			variables = append(variables, socketsKey(len(variables))+"="+value.String())
			value.Reset()
		}
	}
	for _, s := range e.sockets {
		if value.Len() > maxVariable {
			flush()
		}
		if value.Len() > 0 {
			value.WriteByte(',')
		}
		value.WriteString(url.QueryEscape(s.name) + "=" + strconv.Itoa(s.descriptor))
	}
	flush()
	return variables
}

// socketsKey returns the name of the n-th variable with sockets, from 1.
func socketsKey(n int) string {
	if n == 1 {
		return socketsVariable
	}
	return socketsVariable + "_" + strconv.Itoa(n)
}

// digest is what Hello carries, so that a change on the way is noticed.
func digest(variables []string) [wire.DigestSize]byte {
	return sha256.Sum256([]byte(strings.Join(variables, "\x00")))
}

// isVariable says whether key is one of ours.
func isVariable(key string) bool {
	if key == linkVariable || key == socketsVariable {
		return true
	}
	rest, ok := strings.CutPrefix(key, socketsVariable+"_")
	if !ok {
		return false
	}
	_, err := strconv.Atoi(rest)
	return err == nil
}

// takeVariables removes our variables from the environment of this process and
// returns them in the order in which they were made.
func takeVariables() []string {
	var taken []string
	for _, key := range []string{linkVariable, socketsVariable} {
		if value, ok := os.LookupEnv(key); ok {
			taken = append(taken, key+"="+value)
		}
	}
	for n := 2; ; n++ {
		value, ok := os.LookupEnv(socketsKey(n))
		if !ok {
			break
		}
		taken = append(taken, socketsKey(n)+"="+value)
	}
	for _, entry := range os.Environ() {
		if key, _, _ := strings.Cut(entry, "="); isVariable(key) {
			os.Unsetenv(key)
		}
	}
	return taken
}

// withoutVariables returns env without our variables.
func withoutVariables(env []string) []string {
	var kept []string
	for _, entry := range env {
		if key, _, _ := strings.Cut(entry, "="); !isVariable(key) {
			kept = append(kept, entry)
		}
	}
	return kept
}

// parseVariables reads what variables wrote. It touches no descriptor.
func parseVariables(variables []string) (environment, error) {
	var e environment
	seen := map[int]string{}
	take := func(text, what string) (int, error) {
		fd, err := parseDescriptor(text)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
		if other, ok := seen[fd]; ok {
			return 0, fmt.Errorf("%s: descriptor %d is also that of %s", what, fd, other)
		}
		seen[fd] = what
		return fd, nil
	}
	if len(variables) == 0 || !strings.HasPrefix(variables[0], linkVariable+"=") {
		return e, fmt.Errorf("%s is missing", linkVariable)
	}
	text, nonce, _ := strings.Cut(strings.TrimPrefix(variables[0], linkVariable+"="), ",")
	fd, err := take(text, linkVariable)
	if err != nil {
		return e, err
	}
	e.link = fd
	if n, err := hex.Decode(e.nonce[:], []byte(firstBytes(nonce, 2*wire.NonceSize))); err != nil || n != wire.NonceSize || len(nonce) != 2*wire.NonceSize {
		return e, fmt.Errorf("%s: the nonce is not %d hexadecimal digits", linkVariable, 2*wire.NonceSize)
	}
	names := map[string]bool{}
	for i, variable := range variables[1:] {
		value, ok := strings.CutPrefix(variable, socketsKey(i+1)+"=")
		if !ok {
			return e, fmt.Errorf("%s is missing", socketsKey(i+1))
		}
		for pair := range strings.SplitSeq(value, ",") {
			escaped, number, ok := strings.Cut(pair, "=")
			name, err := url.QueryUnescape(escaped)
			if !ok || err != nil {
				return e, fmt.Errorf("%s: %.80q is not name=descriptor", socketsKey(i+1), pair)
			}
			if err := checkName(name); err != nil {
				return e, fmt.Errorf("%s: %w", socketsKey(i+1), err)
			}
			if names[name] {
				return e, fmt.Errorf("%s: socket %q appears twice", socketsKey(i+1), name)
			}
			names[name] = true
			fd, err := take(number, fmt.Sprintf("socket %q", name))
			if err != nil {
				return e, err
			}
			e.sockets = append(e.sockets, namedDescriptor{name, fd})
		}
	}
	return e, nil
}

// parseDescriptor accepts only what strconv.Itoa writes: no sign, no leading zero.
func parseDescriptor(text string) (int, error) {
	fd, err := strconv.Atoi(text)
	if err != nil || strconv.Itoa(fd) != text {
		return 0, fmt.Errorf("%.20q is not a descriptor number", text)
	}
	if fd < firstDescriptor || fd > maxDescriptor {
		return 0, fmt.Errorf("descriptor %d is out of range", fd)
	}
	return fd, nil
}

func firstBytes(s string, n int) string { return s[:min(n, len(s))] }
