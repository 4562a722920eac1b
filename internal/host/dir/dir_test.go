package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
)

func TestRemove(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, path, canary string)
	}{
		{"nothing there", func(*testing.T, string, string) {}},
		{"an empty directory", func(t *testing.T, path, _ string) { mkdir(t, path) }},
		{"a tree", func(t *testing.T, path, _ string) {
			mkdir(t, path+"/a/b/c")
			write(t, path+"/a/b/file", "x")
		}},
		{"a tree deeper than a path can be long", func(t *testing.T, path, _ string) {
			mkdir(t, path)
			at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			for range 3000 {
				if err == nil {
					err = unix.Mkdirat(at, "d", 0o700)
				}
				next, oerr := unix.Openat(at, "d", unix.O_PATH|unix.O_CLOEXEC, 0)
				err = errors.Join(err, oerr, unix.Close(at))
				at = next
			}
			if err = errors.Join(err, unix.Close(at)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a directory that nobody may write to", func(t *testing.T, path, _ string) {
			mkdir(t, path+"/a")
			chmod(t, path, 0o500)
		}},
		{"links to a directory, a file and nowhere", func(t *testing.T, path, canary string) {
			mkdir(t, path+"/deep")
			link(t, canary, path+"/to-dir")
			link(t, canary+"/file", path+"/deep/to-file")
			link(t, "/nonexistent", path+"/to-nowhere")
		}},
		{"a link itself", func(t *testing.T, path, canary string) { link(t, canary, path) }},
		{"a hard link to a file outside", func(t *testing.T, path, canary string) {
			mkdir(t, path)
			if err := os.Link(canary+"/file", path+"/hard"); err != nil {
				t.Fatal(err)
			}
		}},
		{"a FIFO", func(t *testing.T, path, _ string) {
			mkdir(t, path)
			if err := unix.Mkfifo(path+"/fifo", 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent := t.TempDir()
			canary := newCanary(t)
			path := filepath.Join(parent, "vm")
			tc.make(t, path, canary)
			for range 2 { // the second finds nothing, which is no error
				if err := dir.Remove(path); err != nil {
					t.Fatal(err)
				}
				wantNames(t, parent)
			}
			wantCanary(t, canary)
		})
	}
}

func TestRemoveTakesPathsThatEndInASlash(t *testing.T) {
	parent := t.TempDir()
	mkdir(t, parent+"/vm")
	if err := dir.Remove(parent + "/vm/"); err != nil {
		t.Fatal(err)
	}
	wantNames(t, parent)
}

// A removal that was cut short leaves nothing under the name it had, and the next sweep finishes it.
func TestRemoveCutShort(t *testing.T) {
	parent := t.TempDir()
	mkdir(t, parent+"/vm/a")
	write(t, parent+"/vm/a/stays", "")
	stuck, err := os.Open(parent + "/vm/a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stuck.Close() })
	freeze(t, stuck, true)
	t.Cleanup(func() { freeze(t, stuck, false) })

	if err := dir.Remove(parent + "/vm"); err == nil {
		t.Error("no error for what could not be removed")
	}
	left := names(t, parent)
	if len(left) != 1 || !dir.IsTrash(left[0]) {
		t.Fatalf("%q is left, want one name of trash", left)
	}
	if err := dir.Remove(parent + "/vm"); err != nil {
		t.Errorf("the name is free, but: %v", err)
	}
	if err := dir.SweepTrash(parent); err == nil {
		t.Error("no error for what could not be swept")
	}
	freeze(t, stuck, false)
	if err := dir.SweepTrash(parent); err != nil {
		t.Error(err)
	}
	wantNames(t, parent)
}

func TestRemoveReportsWhatItCannotDo(t *testing.T) {
	parent := t.TempDir()
	write(t, parent+"/file", "")
	if err := dir.Remove(parent + "/file/vm"); err == nil {
		t.Error("a path below a file was removed")
	}
	wantNames(t, parent, "file")
}

func TestSweepTrash(t *testing.T) {
	parent := t.TempDir()
	canary := newCanary(t)
	mkdir(t, parent+"/.trash-ABC/deep")
	link(t, canary, parent+"/.trash-ABC/deep/link")
	write(t, parent+"/.trash-file", "")
	link(t, canary, parent+"/.trash-link")
	mkdir(t, parent+"/vm-1/.trash-kept")
	mkdir(t, parent+"/.hidden")
	for range 2 {
		if err := dir.SweepTrash(parent); err != nil {
			t.Fatal(err)
		}
		wantNames(t, parent, ".hidden", "vm-1")
		wantNames(t, parent+"/vm-1", ".trash-kept")
	}
	wantCanary(t, canary)
	if err := dir.SweepTrash(parent + "/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sweep of a directory that is not there: %v", err)
	}
}

func TestIsTrash(t *testing.T) {
	for name, want := range map[string]bool{".trash-A": true, ".trash": false, "trash-A": false, "vm-1": false, "": false} {
		if got := dir.IsTrash(name); got != want {
			t.Errorf("IsTrash(%q) = %t", name, got)
		}
	}
}

func TestRemoveStopsAtMounts(t *testing.T) {
	for _, tc := range []struct {
		name  string
		mount func(t *testing.T, path, canary string)
	}{
		{"a bind mount of the same filesystem", func(t *testing.T, path, canary string) {
			mount(t, canary, path+"/a/mnt", "", unix.MS_BIND)
		}},
		{"another filesystem", func(t *testing.T, path, _ string) {
			mount(t, "none", path+"/a/mnt", "tmpfs", 0)
			write(t, path+"/a/mnt/file", "theirs")
		}},
		{"a bind mount on a file", func(t *testing.T, path, canary string) {
			mount(t, canary+"/file", path+"/a/on-file", "", unix.MS_BIND)
		}},
		{"a mount on the directory itself", func(t *testing.T, path, canary string) {
			mount(t, canary, path, "", unix.MS_BIND)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent := t.TempDir()
			canary := newCanary(t)
			for _, name := range []string{"vm", ".trash-X"} {
				path := filepath.Join(parent, name)
				mkdir(t, path+"/a/mnt")
				write(t, path+"/a/on-file", "")
				tc.mount(t, path, canary)
			}
			if err := dir.Remove(parent + "/vm"); !errors.Is(err, dir.ErrMounted) || !strings.Contains(err.Error(), parent+"/vm") {
				t.Errorf("Remove: %v, want an ErrMounted that names the mount", err)
			}
			if err := dir.SweepTrash(parent); !errors.Is(err, dir.ErrMounted) {
				t.Errorf("SweepTrash: %v, want ErrMounted", err)
			}
			wantCanary(t, canary)
			wantNames(t, parent, ".trash-X", "vm")
			unmountAll(t, parent)
			if err := errors.Join(dir.Remove(parent+"/vm"), dir.SweepTrash(parent)); err != nil {
				t.Errorf("once nothing is mounted: %v", err)
			}
			wantNames(t, parent)
		})
	}
}

// Mounts above are nobody's business: the state directory may be a filesystem of its own.
func TestRemoveBelowAMount(t *testing.T) {
	parent := t.TempDir()
	mount(t, "none", parent, "tmpfs", 0)
	mkdir(t, parent+"/vm/a")
	if err := dir.Remove(parent + "/vm"); err != nil {
		t.Fatal(err)
	}
	wantNames(t, parent)
}
