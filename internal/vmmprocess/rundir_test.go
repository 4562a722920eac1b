package vmmprocess

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestMakeRunDir(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "vm")
	var uid, gid uint32
	if os.Getuid() == 0 {
		uid, gid = 54321, 54322
	}
	if err := MakeRunDir(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != os.ModeDir|0o700 || uid != 0 && (st.Uid != uid || st.Gid != gid) {
		t.Errorf("mode %v, owner %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	if err := MakeRunDir(path, uid, gid); !errors.Is(err, os.ErrExist) {
		t.Errorf("a directory that exists: %v, want %v", err, os.ErrExist)
	}
	link := filepath.Join(parent, "link")
	if err := os.Symlink(filepath.Join(parent, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := MakeRunDir(link, uid, gid); !errors.Is(err, os.ErrExist) {
		t.Errorf("a link that was planted: %v, want %v", err, os.ErrExist)
	}
	if err := MakeRunDir(filepath.Join(parent, "none", "vm"), uid, gid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no parent: %v, want %v", err, os.ErrNotExist)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("%s has %v (%v), want nothing", dir, entries, err)
	}
}
