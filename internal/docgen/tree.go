package docgen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Fresh returns, by path from root, how every file with generated parts should read, with those that read so
// already left out.
func Fresh(root string) (map[string]string, error) {
	paths, err := documents(root)
	if err != nil {
		return nil, err
	}
	stale := map[string]string{}
	var errs []error
	for _, path := range paths {
		old, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fresh, err := Rewrite(string(old), Regions())
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		} else if fresh != string(old) {
			stale[path] = fresh
		}
	}
	old, err := os.ReadFile(filepath.Join(root, EnvFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if string(old) != Envfile() {
		stale[EnvFile] = Envfile()
	}
	return stale, errors.Join(errs...)
}

func documents(root string) ([]string, error) {
	var paths []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return nil, err
			}
			paths = append(paths, rel)
		}
	}
	return paths, nil
}
