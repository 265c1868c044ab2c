//go:build unix

package compat

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// The versions of the library that the service is built with.
const (
	earlier = "earlier" // of the commit in testdata/earlier.tar.gz
	present = "present" // of this directory tree
	later   = "later"   // speaks one protocol version more, and says more than the present one understands
	future  = "future"  // the same, but it no longer speaks the present version
)

// builds are the services, each built once.
var builds = map[string]func() (string, error){
	earlier: sync.OnceValues(buildEarlier),
	present: sync.OnceValues(func() (string, error) { return build(present, ".") }),
	later:   sync.OnceValues(func() (string, error) { return buildPatched(later, patches) }),
	future: sync.OnceValues(func() (string, error) {
		return buildPatched(future, append([]patch{{"message.go", `MinVersion = \d+`, "MinVersion = MaxVersion"}}, patches...))
	}),
}

// workplace is where the services are built. TestMain removes it.
var workplace string

// service returns the path of the service with that version of the library.
func service(t testing.TB, version string) string {
	t.Helper()
	path, err := builds[version]()
	require.NoError(t, err)
	return path
}

// build builds ./service in directory. Nothing but the standard library and what
// the tests themselves are built with is needed.
func build(version, directory string, flags ...string) (string, error) {
	path := filepath.Join(workplace, version)
	args := append([]string{"build", "-trimpath", "-o", path, "-ldflags", "-s -w -X main.version=" + version}, flags...)
	cmd := exec.Command("go", append(args, "./service")...)
	cmd.Dir = directory
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build of the %s version: %w\n%s", version, err, out)
	}
	return path, nil
}

// buildEarlier builds the service of this tree with the library of the archive.
func buildEarlier() (string, error) {
	root := filepath.Join(workplace, "earlier-source")
	_, err := readArchive(func(name string, content []byte) error { return write(filepath.Join(root, name), content) })
	if err != nil {
		return "", err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join("..", "..", name), filepath.Join(root, name)); err != nil {
			return "", err
		}
	}
	sources, err := filepath.Glob("service/*.go")
	if err != nil || len(sources) == 0 {
		return "", fmt.Errorf("the service has no source: %w", err)
	}
	for _, source := range sources {
		if err := copyFile(source, filepath.Join(root, "internal", "compat", source)); err != nil {
			return "", err
		}
	}
	return build(earlier, filepath.Join(root, "internal", "compat"), "-mod=mod")
}

func write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return write(to, content)
}

// readArchive calls each for every file of the archive and returns the commit that
// they are from.
func readArchive(each func(name string, content []byte) error) (commit string, err error) {
	f, err := os.Open(filepath.Join("testdata", "earlier.tar.gz"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return "", err
	}
	archive := tar.NewReader(z)
	for {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return commit, nil
		case err != nil:
			return "", err
		case header.Typeflag == tar.TypeXGlobalHeader:
			commit = header.PAXRecords["comment"]
		case header.Typeflag == tar.TypeReg:
			content, err := io.ReadAll(archive)
			if err != nil {
				return "", err
			}
			if !fs.ValidPath(header.Name) {
				return "", fmt.Errorf("a file named %q", header.Name)
			}
			if err := each(header.Name, content); err != nil {
				return "", err
			}
		}
	}
}

// patch is a change of a file of internal/wire.
type patch struct{ file, old, replacement string }

// patches make the library one that says more: a higher version, a longer HELLO,
// messages with fields that nobody knows, and after each frame an optional one,
// with a descriptor, that nobody knows either.
var patches = []patch{
	{"message.go", `MaxVersion = (\d+)`, "MaxVersion = $1 + 1"},
	{"message.go", `b = append\(b, g\.Digest\[:\]\.\.\.\)`, "$0\n\tb = append(b, \"what comes later\"...)"},
	{"message.go", `return Frame\{Kind: kind, Payload: p,`, `if len(p) > 2 {
		p = append(p[:len(p)-1], ",\"of a later version\":[{}]}"...)
	}
	$0`},
	{"link.go", `for _, f := range frames \{`, "for _, f := range talkative(frames) {"},
	{"link.go", `\z`, `
func talkative(frames []Frame) (more []Frame) {
	for _, f := range frames {
		more = append(more, f, Frame{Kind: Optional | 0x7e, Payload: []byte("of a later version"), Descriptors: []int{0}})
	}
	return more
}
`},
}

// buildPatched builds the service with the library of this tree, changed.
func buildPatched(version string, patches []patch) (string, error) {
	sources, overlay := map[string]string{}, map[string]string{}
	for _, p := range patches {
		path, err := filepath.Abs(filepath.Join("..", "wire", p.file))
		if err != nil {
			return "", err
		}
		source, ok := sources[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			source = string(b)
		}
		old := regexp.MustCompile(p.old)
		if n := len(old.FindAllString(source, -1)); n != 1 {
			return "", fmt.Errorf("%s has %d places that match %s", p.file, n, p.old)
		}
		sources[path] = old.ReplaceAllString(source, strings.ReplaceAll(p.replacement, "$0", "${0}"))
	}
	for path, source := range sources {
		overlay[path] = filepath.Join(workplace, version+"-"+filepath.Base(path))
		if err := write(overlay[path], []byte(source)); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return "", err
	}
	path := filepath.Join(workplace, version+".json")
	if err := write(path, b); err != nil {
		return "", err
	}
	return build(version, ".", "-overlay", path)
}
