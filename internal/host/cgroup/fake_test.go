package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// FakeV2 plays a cgroup v2 hierarchy on plain files below Root, as strict as the kernel about which controllers a
// group has. For hosts whose v2 has none.
type FakeV2 struct {
	Root string
	// Files are those that a group has of each controller.
	Files map[string][]string
	// Fail answers a write to a file of that name with the error.
	Fail map[string]error

	mu sync.Mutex // of the tree
}

// NewFakeV2 makes the root group of a kernel that has all files.
func NewFakeV2(root string, controllers ...string) (*FakeV2, error) {
	f := &FakeV2{Root: root, Fail: map[string]error{}, Files: map[string][]string{
		"cpu": {"cpu.max"}, "memory": {"memory.max", "memory.swap.max", "memory.current"}, "pids": {"pids.max"}, "io": {"io.max"},
	}}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	return f, f.populate(root, controllers)
}

func (f *FakeV2) populate(dir string, controllers []string) error {
	files := map[string]string{
		"cgroup.controllers": strings.Join(controllers, " "), "cgroup.subtree_control": "", "cgroup.procs": "",
	}
	if dir != f.Root {
		files["cgroup.events"] = "populated 0\nfrozen 0\n"
		files["cpu.stat"] = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"
		for _, c := range controllers {
			for _, name := range f.Files[c] {
				files[name] = "0\n"
			}
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (f *FakeV2) mkdir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return f.populate(dir, readWords(filepath.Dir(dir), "cgroup.subtree_control"))
}

func (f *FakeV2) rmdir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(readWords(dir, "cgroup.procs")) > 0 || slices.ContainsFunc(entries, os.DirEntry.IsDir) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: unix.EBUSY}
	}
	return os.RemoveAll(dir)
}

func (f *FakeV2) write(file, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, name := filepath.Split(file)
	if err := f.Fail[name]; err != nil {
		return &os.PathError{Op: "write", Path: file, Err: err}
	}
	if _, err := os.Stat(file); err != nil {
		return err
	}
	if name != "cgroup.subtree_control" {
		return os.WriteFile(file, []byte(value), 0o644)
	}
	return f.enable(filepath.Clean(dir), value)
}

func (f *FakeV2) enable(dir, value string) error {
	enabled := readWords(dir, "cgroup.subtree_control")
	for _, word := range strings.Fields(value) {
		c := strings.TrimPrefix(word, "+")
		if !slices.Contains(readWords(dir, "cgroup.controllers"), c) {
			return unix.ENOENT
		}
		if dir != f.Root && len(readWords(dir, "cgroup.procs")) > 0 {
			return unix.EBUSY
		}
		enabled = append(enabled, c)
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(enabled, " ")), 0o644)
}
