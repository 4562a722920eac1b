package disk_test

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// swaps is how often the name under attack changes during a race.
const swaps = 20_000

// TestSwapRace swaps what a path leads through while it is resolved and opened. Whatever the moment, the answer
// is the file that is allowed or an error; the secret outside is never found and never read.
func TestSwapRace(t *testing.T) {
	for _, tc := range []struct {
		name string
		// set makes "good", which leads to the file at path, and "evil", which leads outside. They swap places.
		set func(t *testing.T, w world) (good, evil, path string)
	}{
		{"a file and a link", func(t *testing.T, w world) (string, string, string) {
			link(t, w.outside+"/rootfs", w.assets+"/evil")
			return w.assets + "/rootfs", w.assets + "/evil", w.assets + "/rootfs"
		}},
		{"a link inside and a link outside", func(t *testing.T, w world) (string, string, string) {
			link(t, "rootfs", w.assets+"/good")
			link(t, w.outside+"/rootfs", w.assets+"/evil")
			return w.assets + "/good", w.assets + "/evil", w.assets + "/good"
		}},
		{"a directory on the way and a link", func(t *testing.T, w world) (string, string, string) {
			write(t, w.assets+"/deep/rootfs", "rootfs")
			link(t, w.outside, w.assets+"/evil")
			return w.assets + "/deep", w.assets + "/evil", w.assets + "/deep/rootfs"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			good, evil, path := tc.set(t, w)
			r := race(t, w, good, evil, path)
			t.Logf("%d resolved, %d of them opened, %d refused", r.resolved, r.opened, r.refused)
			if r.opened == 0 || r.refused == 0 {
				t.Errorf("the race was none: %+v", r)
			}
		})
	}
}

type outcome struct{ resolved, opened, refused int }

func race(t *testing.T, w world, good, evil, path string) (o outcome) {
	t.Helper()
	var swapped atomic.Int64
	failed := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, good, unix.AT_FDCWD, evil, unix.RENAME_EXCHANGE); err != nil {
				failed <- err
				return
			}
			swapped.Add(1)
		}
	}()
	for swapped.Load() < swaps && len(failed) == 0 {
		o.add(t, w, path)
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *outcome) add(t *testing.T, w world, path string) {
	t.Helper()
	f, err := w.roots.Resolve(path)
	if err != nil {
		o.refused++
		return
	}
	o.resolved++
	in, err := f.Open()
	if errors.Is(err, disk.ErrChanged) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	content, err := io.ReadAll(in)
	if err != nil || string(content) != "rootfs" {
		t.Fatalf("read %q, %v by %s", content, err, f.Path)
	}
	o.opened++
}

func TestOpenRefusesWhatWasReplaced(t *testing.T) {
	for _, tc := range []struct {
		name    string
		replace func(t *testing.T, w world, path string)
		good    bool
	}{
		{"as it was", func(*testing.T, world, string) {}, true},
		{"written to", func(t *testing.T, w world, path string) { write(t, path, "other") }, true},
		{"gone", func(t *testing.T, _ world, path string) { remove(t, path) }, false},
		{"another file", func(t *testing.T, w world, path string) {
			write(t, w.assets+"/other", "other")
			rename(t, w.assets+"/other", path)
		}, false},
		{"another file, which may get the freed inode", func(t *testing.T, w world, path string) {
			remove(t, path)
			write(t, path, "other")
		}, false},
		{"a link to another file", func(t *testing.T, w world, path string) {
			remove(t, path)
			link(t, w.outside+"/secret", path)
		}, false},
		{"a link to the file itself", func(t *testing.T, w world, path string) {
			rename(t, path, w.assets+"/moved")
			link(t, w.assets+"/moved", path)
		}, false},
		{"a directory", func(t *testing.T, _ world, path string) {
			remove(t, path)
			mkdir(t, path)
		}, false},
		{"a FIFO", func(t *testing.T, _ world, path string) {
			remove(t, path)
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a link on the way", func(t *testing.T, w world, _ string) {
			rename(t, w.assets+"/deep", w.assets+"/moved")
			link(t, "moved", w.assets+"/deep")
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			path := w.assets + "/deep/kernel"
			f := w.resolve(t, path)
			tc.replace(t, w, path)
			in, err := f.Open()
			if err == nil {
				in.Close()
			}
			if tc.good && err != nil {
				t.Error(err)
			}
			if !tc.good && !errors.Is(err, disk.ErrChanged) {
				t.Errorf("Open: %v, want ErrChanged", err)
			}
		})
	}
}

func TestOpenIsForReadingOnly(t *testing.T) {
	w := newWorld(t)
	in, err := w.resolve(t, w.assets+"/rootfs").Open()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.Write([]byte("x")); err == nil {
		t.Error("a template was opened for writing")
	}
	if in.Name() != w.assets+"/rootfs" {
		t.Errorf("the file is called %q", in.Name())
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
