package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

type process struct {
	id   int
	name string // the id as text
}

// processes lists those that have dir on their command line or in their environment.
func processes(t *testing.T, dir string) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil || id == os.Getpid() {
			continue
		}
		for _, file := range []string{"cmdline", "environ"} {
			// A process may end at any moment.
			if text, err := os.ReadFile(filepath.Join("/proc", e.Name(), file)); err == nil && bytes.Contains(text, []byte(dir)) {
				found = append(found, process{id, e.Name()})
				break
			}
		}
	}
	return found
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s is left", e.Name())
	}
	for _, p := range processes(t, dir) {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", p.name, "cmdline"))
		t.Errorf("process %d is left: %q", p.id, cmdline)
	}
}
