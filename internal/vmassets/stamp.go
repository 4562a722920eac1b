package vmassets

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const stampFile = ".stamp.json"

// stamp remembers, by file name, what the files of a directory were made from and what came out.
type stamp map[string]stampEntry

type stampEntry struct {
	Inputs string `json:"inputs"` // a hash over everything that decides the content
	Output string `json:"output"` // the content's SHA-256
}

// readStamp returns an empty stamp where there is none, or none that can be read: then everything is made again.
func readStamp(dir string) stamp {
	s := stamp{}
	text, err := os.ReadFile(filepath.Join(dir, stampFile))
	if err != nil || json.Unmarshal(text, &s) != nil {
		return stamp{}
	}
	return s
}

// fresh says whether the named files are there, unchanged, and made from these inputs.
func (s stamp) fresh(dir, inputs string, names ...string) bool {
	for _, name := range names {
		if s[name].Inputs != inputs || s.verify(dir, name) != nil {
			return false
		}
	}
	return true
}

// verify says whether the named file holds what was once put there.
func (s stamp) verify(dir, name string) error {
	sum, err := hashFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if want, known := s[name]; known && want.Output != sum {
		return &ChangedError{Name: name}
	}
	return nil
}

// ChangedError says that a file is no longer what was made: a guest wrote to the template, for example.
type ChangedError struct{ Name string }

func (e *ChangedError) Error() string { return e.Name + " was changed since it was made" }

// hashOf joins the parts of a recipe; none of them contains a line break.
func hashOf(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
