// Package dir removes directories so that a crash in the middle never looks like a whole one, and so that
// nothing outside of them is touched: it follows no link and crosses into no mount.
package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// trashPrefix begins the names of directories that are being removed; whoever lists a parent skips them.
const trashPrefix = ".trash-"

// Remove renames path to a dot-name beside it and then removes it with all that it holds. It does not follow
// links, and a path that is not there is no error. A directory that something is mounted in stays as it is,
// and the error wraps ErrMounted. However deep the tree, it takes a handful of descriptors.
func Remove(path string) error { return RemoveContext(context.Background(), path) }

// RemoveContext is a Remove that stops where ctx ends, and returns its error. SweepTrash finishes it.
func RemoveContext(ctx context.Context, path string) error {
	path = filepath.Clean(path)
	if err := findMount(path); err != nil {
		return err
	}
	trash := filepath.Join(filepath.Dir(path), trashPrefix+rand.Text())
	if err := os.Rename(path, trash); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return removeTree(ctx, trash)
}

// SweepTrash removes what a Remove that was cut short left below parent.
func SweepTrash(parent string) error { return SweepTrashContext(context.Background(), parent) }

// SweepTrashContext is a SweepTrash that stops where ctx ends, and returns its error.
func SweepTrashContext(ctx context.Context, parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !IsTrash(e.Name()) {
			continue
		}
		path := filepath.Join(parent, e.Name())
		if merr := findMount(path); merr != nil {
			err = errors.Join(err, merr)
			continue
		}
		err = errors.Join(err, removeTree(ctx, path))
	}
	return err
}

// IsTrash tells whether name is that of a directory being removed.
func IsTrash(name string) bool { return strings.HasPrefix(name, trashPrefix) }
