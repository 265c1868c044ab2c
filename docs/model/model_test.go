// Package model_test checks the model of the hand-over with Spin, and that it speaks
// of the same phases and frames as the code.
package model_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// The searches that have to be complete and find nothing.
var worlds = map[string][]string{
	"two generations, whatever happens":       nil,
	"three generations, killed and refusing":  {"-DGENERATIONS=3", "-DQUIET", "-DMORTAL"},
	"three generations, with what they relay": {"-DGENERATIONS=3", "-DCALM"},
}

// What two generations cannot do: the new one has no next one, and there is nothing
// to relay; own is there once for the first generation and once for the second.
var unreachable = regexp.MustCompile(`heir\[|RELAY|relayed|hearing\[me\] = 1|reads\[me\] = 1|(sending|upShut)\[me\] = 1`)

func TestTheModelHasThePhasesOfTheCode(t *testing.T) {
	assert.ElementsMatch(t, phases(t), declared(t, "phase"))
}

func TestTheModelHasTheFramesOfTheCode(t *testing.T) {
	var kinds []string
	for _, kind := range wire.Kinds() {
		kinds = append(kinds, kind.String())
	}
	assert.ElementsMatch(t, kinds, declared(t, "frame"))
}

func TestEveryPhaseAndFrameOfTheModelIsUsed(t *testing.T) {
	text := source(t)
	for _, frame := range declared(t, "frame") {
		assert.Regexp(t, `! ?`+frame+`\b|(send|tell|workAndTell|handOn)\(`+frame+`\b`, text, "nobody sends it")
		assert.Regexp(t, `\? ?`+frame+`\b|(await|next)\(`+frame+`\b`, text, "nobody receives it")
	}
	for _, phase := range declared(t, "phase") {
		assert.Regexp(t, `phase\[\w+\] = `+phase+`\b|workAndTell\(\w+, `+phase+`\)|phase\[\w+\] != `+phase+`|phase\[GENERATIONS\] = `+phase, text)
	}
}

func TestNoOrderOfStepsBreaksAPromise(t *testing.T) {
	for name, options := range worlds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := search(t, options, []string{"-DSAFETY"})
			complete(t, report)
			if options == nil {
				assert.Empty(t, unreached(report), "the model has steps that are never taken")
			}
		})
	}
}

// Without a cycle every run comes to its end, where the model looks at what has become
// of the service. So what it finds there comes about in every run.
func TestEveryRunEnds(t *testing.T) {
	for name, options := range worlds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			complete(t, search(t, options, []string{"-DNP"}, "-l"))
		})
	}
}

func TestTheModelFindsABrokenProtocol(t *testing.T) {
	for _, mutant := range []string{"NO_ACK", "NO_TOKEN", "CLOSE_LINK_BEFORE_KILL", "HELP_ITSELF", "THAW_BEFORE_KILL", "GIVE_UP", "SLOW_ACK"} {
		t.Run(mutant, func(t *testing.T) {
			t.Parallel()
			report := search(t, []string{"-D" + mutant}, []string{"-DSAFETY"})
			assert.Contains(t, report, "assertion violated")
			assert.Contains(t, report, "errors: 1")
		})
	}
}

// search generates and compiles the verifier, and returns what it says.
func search(t *testing.T, options, compile []string, arguments ...string) string {
	t.Helper()
	spin, err := exec.LookPath("spin")
	if err != nil {
		t.Skip("spin is not installed")
	}
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("there is no C compiler")
	}
	dir := t.TempDir()
	for _, path := range sources(t) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), text, 0o600))
	}
	run := func(program string, arguments ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), program, arguments...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	run(spin, append(append([]string{"-a"}, options...), "mitosis.pml")...)
	// The model has provided clauses, which exclude partial order reduction.
	run(compiler, append(append([]string(nil), compile...), "-O0", "-w", "-DNOREDUCE", "-DMEMLIM=2000", "-o", "pan", "pan.c")...)
	report := run(filepath.Join(dir, "pan"), append(arguments, "-m100000", "-w22")...)
	t.Log(figures.FindString(report))
	return report
}

var figures = regexp.MustCompile(`State-vector.*\n.*states, stored`)

// complete requires that the search has looked at everything and found nothing.
func complete(t *testing.T, report string) {
	t.Helper()
	require.Contains(t, report, "errors: 0", report)
	for _, incomplete := range []string{"Search not completed", "max search depth too small", "out of memory", "reached -DMEMLIM"} {
		require.NotContains(t, report, incomplete)
	}
}

// unreached returns the statements that no run has come to. The alternatives of one
// state are reported together, so one that is excused excuses them.
func unreached(report string) []string {
	texts := map[string]string{}
	var order []string
	process := ""
	for _, line := range strings.Split(report, "\n") {
		if rest, ok := strings.CutPrefix(line, "unreached in proctype "); ok {
			process = rest
		}
		if m := statement.FindStringSubmatch(line); m != nil {
			key := process + m[1]
			if texts[key] == "" {
				order = append(order, key)
			}
			texts[key] += line + "\n"
		}
	}
	var list []string
	for _, key := range order {
		if !unreachable.MatchString(texts[key]) {
			list = append(list, texts[key])
		}
	}
	return list
}

var statement = regexp.MustCompile(`^\t\S+\.pml:\d+, state (\d+), "`)

// phases returns the names of the phase constants in registry.go.
func phases(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "registry.go"), nil, 0)
	require.NoError(t, err)
	var names []string
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "phase" {
			for _, value := range spec.Values {
				if literal, ok := value.(*ast.BasicLit); ok {
					name, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					names = append(names, name)
				}
			}
		}
		return true
	})
	require.NotEmpty(t, names)
	return names
}

// declared returns the names of an mtype of the model.
func declared(t *testing.T, mtype string) []string {
	t.Helper()
	m := regexp.MustCompile(`(?s)mtype:` + mtype + ` = \{(.*?)\}`).FindStringSubmatch(source(t))
	require.NotNil(t, m)
	return strings.FieldsFunc(m[1], func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
}

func sources(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("*.pml")
	require.NoError(t, err)
	require.NotEmpty(t, list)
	return list
}

// source returns the text of the model without comments.
func source(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, path := range sources(t) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		all.Write(text)
	}
	return regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(all.String(), "")
}
