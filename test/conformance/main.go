// Command conformance runs the conformance suite of every backend, takes what the KVM lab brought back, and keeps the
// results for the docs. Run it in metald's source tree; `make conformance` does, and prints the table after it.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/docgen/results"
)

func main() {
	run := flag.String("run", "^TestConformance$", "which tests, as go test -run; empty runs none and only reads the lab's")
	packages := flag.String("packages", "", "`names` of backends, by commas; empty is every one")
	lab := flag.String("lab", "build/lab/results", "the `directory` of what the tests said in the lab")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := work(ctx, *run, *packages, *lab); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		stop()
		os.Exit(1)
	}
}

// work keeps what was found even where some of it failed.
func work(ctx context.Context, run, packages, lab string) error {
	text, err := os.ReadFile(results.Path)
	if err != nil {
		return err
	}
	record, err := results.Decode(text)
	if err != nil {
		return err
	}
	var failed error
	if run != "" {
		failed = runAll(ctx, record, run, packages)
	}
	failed = errors.Join(failed, readLab(record, lab))
	if text, err = record.Encode(); err != nil {
		return err
	}
	return errors.Join(failed, os.WriteFile(results.Path, text, 0o644))
}

func sentences() (all []string) {
	for _, c := range conformance.Chapters() {
		all = append(all, c.Sentences...)
	}
	return all
}

// backends are the folders of packages whose tests run the suite.
func backends() ([]string, error) {
	files, err := filepath.Glob("internal/backend/*/*_test.go")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if dir := filepath.Dir(file); bytes.Contains(text, []byte("conformance.Run(")) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil, errors.New("no backend runs the suite; is this the root of the tree?")
	}
	return dirs, nil
}

func runAll(ctx context.Context, record results.Record, run, packages string) (failed error) {
	dirs, err := backends()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if packages != "" && !slices.Contains(strings.Split(packages, ","), filepath.Base(dir)) {
			continue
		}
		var text bytes.Buffer
		cmd := exec.CommandContext(ctx, "go", "test", "-buildvcs=false", "-count=1", "-timeout", "40m", "-v", "-run", run, "./"+dir)
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&text, os.Stdout), os.Stderr
		if err := cmd.Run(); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", dir, err))
		}
		failed = errors.Join(failed, take(record, &text, filepath.Base(dir), false))
	}
	return failed
}

// labPrefix is how the lab names what the tests of a backend said.
const labPrefix = "internal-backend-"

// readLab takes what the lab brought back; a tree whose lab was never run has none.
func readLab(record results.Record, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		name, isBackend := strings.CutPrefix(e.Name(), labPrefix)
		name, isText := strings.CutSuffix(name, ".txt")
		if !isBackend || !isText {
			continue
		}
		text, readErr := os.ReadFile(filepath.Join(dir, e.Name()))
		if readErr != nil {
			return readErr
		}
		err = errors.Join(err, take(record, bytes.NewReader(text), name, true))
	}
	return err
}

func take(record results.Record, text io.Reader, backend string, lab bool) error {
	fresh, err := results.Parse(text, backend, lab, sentences())
	if err != nil {
		return err
	}
	for column, run := range fresh {
		if lab && column.StandIn() { // it has a column of its own, where it is run more often
			delete(fresh, column)
			continue
		}
		fmt.Printf("conformance: %s: %d sentences on %s\n", column, len(run.Results), run.Last())
	}
	record.Merge(fresh, sentences())
	return nil
}
