package jail_test

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// into are all the ways to put something into a jail.
var into = map[string]func(t *testing.T, w world, name string) error{
	"read-only file": func(t *testing.T, w world, name string) error {
		_, err := w.Place(t.Context(), jail.File{Name: name, Source: w.file(t, "kernel", "kernel", root, 0o644)})
		return err
	},
	"copied file": func(t *testing.T, w world, name string) error {
		_, err := w.Place(t.Context(), jail.File{Name: name, Source: w.file(t, "initrd", "initrd", root, 0o600)})
		return err
	},
	"disk": func(t *testing.T, w world, name string) error {
		_, err := w.Place(t.Context(), jail.File{Name: name, Source: w.file(t, "disk", "disk", root, 0o600), Kind: jail.Writable})
		return err
	},
	"FIFO":      func(_ *testing.T, w world, name string) error { return w.FIFO(name) },
	"directory": func(_ *testing.T, w world, name string) error { return w.Dir(name) },
	"executable": func(_ *testing.T, w world, name string) error {
		_, _, err := w.Executable(name)
		return err
	},
}

// Whatever a VMM planted in the place of a file or of the directory that it is in, nothing is written through it.
func TestNothingIsPutThroughWhatWasPlanted(t *testing.T) {
	for what, put := range into {
		for name, plant := range map[string]func(t *testing.T, w world){
			"a link to a secret": func(t *testing.T, w world) {
				must(t, w.Dir("run"))
				w.plant(t, w.outside+"/secret", "run/x")
			},
			"a link to nothing": func(t *testing.T, w world) {
				must(t, w.Dir("run"))
				w.plant(t, w.outside+"/new", "run/x")
			},
			"a link to a directory": func(t *testing.T, w world) {
				must(t, w.Dir("run"))
				w.plant(t, w.outside, "run/x")
			},
			"a file": func(t *testing.T, w world) {
				must(t, w.Dir("run"))
				write(t, w.root+"/run/x", "planted")
			},
			"a hard link to a secret": func(t *testing.T, w world) {
				must(t, w.Dir("run"))
				must(t, os.Link(w.outside+"/secret", w.root+"/run/x"))
			},
			"a link for the directory":      func(t *testing.T, w world) { w.plant(t, w.outside, "run") },
			"a link up":                     func(t *testing.T, w world) { w.plant(t, "../../../../outside", "run") },
			"a link within the jail":        func(t *testing.T, w world) { must(t, w.Dir("a")); w.plant(t, "a", "run") },
			"a magic link":                  func(t *testing.T, w world) { w.plant(t, "/proc/self/cwd", "run") },
			"a file for the directory":      func(t *testing.T, w world) { write(t, w.root+"/run", "") },
			"a FIFO for the directory":      func(t *testing.T, w world) { must(t, w.FIFO("run")) },
			"a mount for the directory":     func(t *testing.T, w world) { bind(t, w.outside, w.root+"/run") },
			"nothing, but on the way there": func(t *testing.T, w world) {},
		} {
			t.Run(what+"/"+name, func(t *testing.T) {
				w := newWorld(t)
				plant(t, w)
				if err := put(t, w, "run/x"); err == nil {
					t.Error("it was put there")
				}
				entries, err := os.ReadDir(w.outside)
				must(t, err)
				if len(entries) != 1 {
					t.Errorf("what lies outside is now %v", entries)
				}
				for _, source := range []string{"kernel", "initrd", "disk"} {
					path := w.files + "/" + source
					if _, err := os.Stat(path); err == nil && ownerOf(t, path) != root {
						t.Errorf("%s is lent to nobody and not root's any more", source)
					}
				}
			})
		}
	}
}

// A link is not gone through further up, either.
func TestNothingIsPutThroughALinkOnTheWay(t *testing.T) {
	for what, put := range into {
		for name, target := range map[string]string{
			"out": "../../../../outside", "out from the top": "", "to the jail itself": ".", "magic": "/proc/self/cwd",
		} {
			t.Run(what+"/"+name, func(t *testing.T) {
				w := newWorld(t)
				if target == "" {
					target = w.outside
				}
				w.plant(t, target, "run")
				mkdir(t, w.outside+"/deep")
				must(t, w.Dir("deep"))
				if err := put(t, w, "run/deep/x"); err == nil {
					t.Error("it was put there")
				}
				wantOnly(t, w.outside+"/deep")
				wantOnly(t, w.root+"/deep")
			})
		}
	}
}

// While a disk is being placed its name leads to a secret now and then. What comes into the jail is the disk or nothing,
// and nobody is given the secret.
func TestPlaceWhileTheSourceIsSwapped(t *testing.T) {
	for kind, name := range map[jail.Kind]string{jail.ReadOnly: "read-only", jail.Writable: "writable"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			source := w.file(t, "disk", "disk", root, 0o644)
			good := stat(t, source)
			must(t, os.Symlink(w.outside+"/secret", w.files+"/evil"))
			stop := swapping(t, source, w.files+"/evil")
			placed, refused := 0, 0
			for i := 0; (placed < 100 || refused < 100) && i < 100_000; i++ {
				_, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: source, Kind: kind})
				if err != nil {
					if !strings.Contains(err.Error(), "a symbolic link") && !errors.Is(err, os.ErrNotExist) {
						t.Fatal(err)
					}
					refused++
					continue
				}
				placed++
				if st := stat(t, w.root+"/disk-0"); st.Ino != good.Ino {
					t.Fatal("another file is in the jail")
				}
				must(t, os.Remove(w.root+"/disk-0"))
				must(t, os.Chown(w.files+"/evil", 0, 0)) // whichever it is, not to lend it twice
			}
			stop()
			if t.Logf("%d placed, %d refused", placed, refused); placed == 0 || refused == 0 {
				t.Error("the race was none")
			}
		})
	}
}

// While things are opened, the directory that they are in is a link to the outside now and then.
func TestOpenWhileADirectoryIsSwapped(t *testing.T) {
	w := newWorld(t)
	must(t, w.Dir("run"))
	must(t, w.FIFO("run/x"))
	must(t, unix.Mkfifo(w.outside+"/x", 0o600))
	must(t, os.Chown(w.outside+"/x", int(vmm.UID), int(vmm.GID))) // by its owner alone it could not be told
	inside := stat(t, w.root+"/run/x")
	w.plant(t, w.outside, "evil")
	stop := swapping(t, w.root+"/run", w.root+"/evil")
	opened, refused := 0, 0
	for i := 0; (opened < 200 || refused < 200) && i < 100_000; i++ {
		f, err := w.OpenFIFO("run/x")
		if err != nil {
			refused++
			continue
		}
		opened++
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		f.Close()
		if st.Ino != inside.Ino {
			t.Fatal("a FIFO outside was opened")
		}
	}
	stop()
	if t.Logf("%d opened, %d refused", opened, refused); opened == 0 || refused == 0 {
		t.Error("the race was none")
	}
}

// swapping exchanges two names until it is told to stop.
func swapping(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
				// Where one of them is gone, or was moved, there is nothing to do for a moment.
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(end); <-ended })
	t.Cleanup(stop)
	return stop
}
