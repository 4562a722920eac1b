package arch

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/docgen"
)

// root is the root of the tree, from this package.
const root = "../.."

// tree lists the files of the tree by slash-separated path, without what tools make.
func tree(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (name == ".git" || name == "build") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() && name != ".git" { // in a worktree .git is a file
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 50 {
		t.Fatalf("only %d files; is %s the root of the tree?", len(names), root)
	}
	return names
}

// unwanted are patterns that no text file of the tree may match, with the reason.
var unwanted = []struct {
	pattern, why string
}{
	{`(^|[\s"'(=])/(wo` + `rk|fa` + `rm)/`, "a path of one machine means nothing on another"},
	{`/tmp/ba` + `sh_jobs|/ro` + `ot/\.(cache|config|bash)`, "a path of one machine means nothing on another"},
	{`(?i)(proxy\.gol` + `ang\.org|deb\.deb` + `ian\.org|registry\.np` + `mjs|snapshot\.deb` + `ian)`, "where packages come from is the machine's setting"},
	{`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`, "a note to oneself belongs into an issue"},
	{`(?i)\b(as an a` + `i|language mod` + `el|chat` + `gpt|clau` + `de|copi` + `lot|here's th` + `e|let me kn` + `ow)\b`, "text is for the reader of the code, whoever wrote it"},
	{`[\x{1F300}-\x{1FAFF}\x{2705}\x{274C}\x{26A0}]`, "pictures say less than words"},
}

func TestText(t *testing.T) {
	var patterns []*regexp.Regexp
	for _, u := range unwanted {
		patterns = append(patterns, regexp.MustCompile(u.pattern))
	}
	for _, name := range tree(t) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if len(text) == 0 || bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text) {
			continue // not text
		}
		if text[len(text)-1] != '\n' {
			t.Errorf("%s does not end with a newline", name)
		}
		if strings.HasPrefix(name, "gen/") || strings.HasPrefix(name, "proto/buf/") || strings.HasSuffix(name, "go.sum") {
			continue // made or published by others
		}
		for i, line := range strings.Split(string(text), "\n") {
			for j, p := range patterns {
				if m := p.FindString(line); m != "" {
					t.Errorf("%s:%d: %q: %s", name, i+1, strings.TrimSpace(m), unwanted[j].why)
				}
			}
		}
	}
}

func TestNoLargeFiles(t *testing.T) {
	for _, name := range tree(t) {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes; large files are made, not committed", name, info.Size())
		}
	}
}

func TestDocsAreFresh(t *testing.T) {
	stale, err := docgen.Fresh(root)
	if err != nil {
		t.Error(err)
	}
	for name := range stale {
		t.Errorf("%s has stale generated parts; run: make docs", name)
	}
}
