// Command docgen rewrites the parts of the documentation that repeat what the code says. Without -write it only says
// which files are stale, and fails if there are any. `make docs` runs it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/docgen"
)

func main() {
	root := flag.String("root", ".", "root `directory` of the tree")
	write := flag.Bool("write", false, "rewrite what is stale")
	flag.Parse()
	if err := run(*root, *write, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

func run(root string, write bool, out io.Writer) error {
	stale, err := docgen.Fresh(root)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(stale)) {
		fmt.Fprintln(out, path)
		if write {
			if err := os.WriteFile(filepath.Join(root, path), []byte(stale[path]), 0o644); err != nil {
				return err
			}
		}
	}
	if len(stale) > 0 && !write {
		return errors.New("these files are stale; run: make docs")
	}
	return nil
}
