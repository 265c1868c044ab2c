package mitosis

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the documents call a proof has to be there.
func TestEveryTestThatADocumentNamesExists(t *testing.T) {
	t.Parallel()
	exist := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "*/*/*_test.go", "*/*/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, found := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)`).FindAllStringSubmatch(string(source), -1) {
				exist[found[1]] = true
			}
		}
	}
	for _, document := range []string{"SECURITY.md", "README.md", "docs/guarantees.md", "docs/model/README.md"} {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w+)`").FindAllStringSubmatch(string(text), -1)
		if document == "docs/guarantees.md" {
			require.NotEmpty(t, named)
		}
		for _, name := range named {
			assert.True(t, exist[name[1]], "%s names %s", document, name[1])
		}
	}
}
