package vmassets

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// publish moves finished files, by name in the work directory, into out, and records what they were made from. A file
// is on the disk before its name is; the record is written last, so a crash in between means work done twice.
func publish(work, out, inputs string, s stamp, names ...string) error {
	for _, name := range names {
		path := filepath.Join(work, name)
		sum, err := hashFile(path)
		if err != nil {
			return err
		}
		if err := move(path, filepath.Join(out, name)); err != nil {
			return err
		}
		s[name] = stampEntry{Inputs: inputs, Output: sum}
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(work, stampFile)
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return errors.Join(move(path, filepath.Join(out, stampFile)), syncPath(out))
}

func move(from, to string) error {
	if err := os.Chmod(from, 0o644); err != nil {
		return err
	}
	if err := syncPath(from); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
