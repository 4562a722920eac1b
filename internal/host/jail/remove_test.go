package jail_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// What a VMM that was taken over may leave behind.
func TestRemove(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, w world){
		"nothing": func(*testing.T, world) {},
		"what the jailer makes": func(t *testing.T, w world) {
			mkdir(t, w.root+"/dev/net")
			must(t, unix.Mknod(w.root+"/dev/kvm", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 232))))
			must(t, w.Dir("run"))
			listen(t, filepath.Join(w.root, socket))
			must(t, w.FIFO(metrics))
		},
		"links to what lies outside": func(t *testing.T, w world) {
			w.plant(t, w.outside, "dir")
			w.plant(t, w.outside+"/secret", "file")
			w.plant(t, "../../../..", "up")
			w.plant(t, "/", "top")
			w.plant(t, "loop", "loop")
			must(t, os.Link(w.outside+"/secret", w.root+"/hard"))
		},
		"directories that nobody may enter": func(t *testing.T, w world) {
			mkdir(t, w.root+"/a/b/c")
			write(t, w.root+"/a/b/file", "")
			for _, d := range []string{"/a/b/c", "/a/b", "/a", ""} {
				must(t, os.Chmod(w.root+d, 0))
			}
		},
		"names of any bytes": func(t *testing.T, w world) {
			for _, name := range []string{" ", "\n", "\\", "-rf", "...", "\xff\xfe", ".trash-X", "\x01\x1b[2J", fmt.Sprintf("%0255d", 0)} {
				mkdir(t, w.root+"/"+name)
				write(t, w.root+"/"+name+"/"+name, "")
			}
		},
		"ten thousand files": func(t *testing.T, w world) {
			for i := range 10_000 {
				fd, err := unix.Open(fmt.Sprintf("%s/%d", w.root, i), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0)
				must(t, err)
				unix.Close(fd)
			}
		},
		"a tree as deep as it is wide": func(t *testing.T, w world) {
			for i := range 12 {
				for k := range 12 {
					mkdir(t, fmt.Sprintf("%s/%d/%d/%d/%d", w.root, i, k, i, k))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			plant(t, w)
			for range 2 { // the second finds nothing, which is no error
				must(t, jail.Remove(t.Context(), w.dir))
				wantOnly(t, filepath.Dir(w.dir))
			}
		})
	}
}

func wantOnly(t testing.TB, path string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

// deepen makes directories in directories, further than any path reaches.
func deepen(t *testing.T, path string, levels int) {
	t.Helper()
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer func() { unix.Close(at) }()
	for range levels {
		must(t, unix.Mkdirat(at, "d", 0o700))
		next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(at)
		at = next
	}
}

// A tree may be deeper than the number of files that metald may have open, which others need too.
func TestRemoveOfADeepTree(t *testing.T) {
	w := newWorld(t)
	deepen(t, w.root, 1500)
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	few := was
	few.Cur = uint64(len(openFiles()) + 12)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	err := jail.Remove(t.Context(), w.dir)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	must(t, err)
	wantNothingAt(t, w.dir)
}

// A VMM that lives on after all moves its directories about while they are being removed.
func TestRemoveWhileDirectoriesAreSwapped(t *testing.T) {
	for i := range 10 {
		w := newWorldOf(t, fmt.Sprint("vm-", i))
		mkdir(t, w.outside+"/sub")
		write(t, w.outside+"/sub/file", "")
		for k := range 50 {
			mkdir(t, fmt.Sprintf("%s/a/%d/sub", w.root, k))
			write(t, fmt.Sprintf("%s/a/%d/sub/file", w.root, k), "")
		}
		must(t, os.Symlink(w.outside, w.root+"/a/evil"))
		d, err := os.Open(w.root + "/a") // as the VMM has it, whatever the name of the jail
		must(t, err)
		here := fmt.Sprintf("/proc/self/fd/%d", d.Fd())
		stop := swapping(t, here+"/25", here+"/evil")
		err = jail.Remove(t.Context(), w.dir)
		stop()
		d.Close()
		if err != nil {
			t.Logf("it lived: %v", err)
		}
		wantOnly(t, w.outside, "secret", "sub")
		wantOnly(t, w.outside+"/sub", "file")
		must(t, jail.SweepTrash(t.Context(), w.base))
		wantOnly(t, filepath.Dir(w.dir))
	}
}

func TestRemoveCutShort(t *testing.T) {
	w := newWorld(t)
	write(t, w.root+"/file", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, jail.Remove(ctx, w.dir), context.Canceled)
	found, err := jail.List(w.base)
	must(t, err)
	if len(found) != 0 {
		t.Errorf("what is being removed is listed: %v", found)
	}
	entries, err := os.ReadDir(filepath.Dir(w.dir))
	must(t, err)
	if len(entries) != 1 || !dir.IsTrash(entries[0].Name()) {
		t.Fatalf("left: %v", entries)
	}
	must(t, jail.Remove(t.Context(), w.dir))
	again, err := jail.Make(w.root, vmm) // the name is free
	must(t, err)
	must(t, again.Close())
	must(t, jail.SweepTrash(t.Context(), w.base))
	wantOnly(t, filepath.Dir(w.dir), "vm-1")
}
