package disk_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

func TestResolveFinds(t *testing.T) {
	w := newWorld(t)
	link(t, "rootfs", w.assets+"/relative")
	link(t, w.assets+"/deep/kernel", w.assets+"/absolute")
	link(t, "deep", w.assets+"/dirlink")
	link(t, "../rootfs", w.assets+"/deep/up")
	link(t, w.assets+"/deep/../rootfs", w.assets+"/dots")
	link(t, w.assets, w.assets+"/self")
	link(t, "relative", w.assets+"/twice")
	link(t, w.assets, w.outside+"/alias")
	link(t, w.outside+"/alias/rootfs", w.assets+"/round-about")
	write(t, w.assets+"/a name, with: odd\nsigns", "odd")
	write(t, w.assets+"/..dots..", "dots")

	alias := w
	alias.roots.Assets = w.outside + "/alias"
	slash := w
	slash.roots = disk.Roots{Assets: w.assets + "/", Volumes: w.volumes + "//"}
	only := w
	only.roots = disk.Roots{Volumes: w.volumes}
	unmade := w
	unmade.roots.Volumes = w.volumes + "/unmade"

	rootfs := w.assets + "/rootfs"
	for _, tc := range []struct {
		name  string
		world world
		path  string
		want  string
		kind  disk.Kind
	}{
		{"a template", w, rootfs, rootfs, disk.Template},
		{"a file deeper down", w, w.assets + "/deep/kernel", w.assets + "/deep/kernel", disk.Template},
		{"a volume", w, w.volumes + "/data", w.volumes + "/data", disk.Volume},
		{"slashes and dots that mean nothing", w, w.assets + "//./deep/.//kernel", w.assets + "/deep/kernel", disk.Template},
		{"a slash at the end", w, rootfs + "/", rootfs, disk.Template},
		{"odd signs", w, w.assets + "/a name, with: odd\nsigns", w.assets + "/a name, with: odd\nsigns", disk.Template},
		{"a name that has dots", w, w.assets + "/..dots..", w.assets + "/..dots..", disk.Template},
		{"a relative link", w, w.assets + "/relative", rootfs, disk.Template},
		{"an absolute link", w, w.assets + "/absolute", w.assets + "/deep/kernel", disk.Template},
		{"a link to a directory", w, w.assets + "/dirlink/kernel", w.assets + "/deep/kernel", disk.Template},
		{"a link that goes up", w, w.assets + "/dirlink/up", rootfs, disk.Template},
		{"an absolute link with dots", w, w.assets + "/dots", rootfs, disk.Template},
		{"a link to the root", w, w.assets + "/self/self/rootfs", rootfs, disk.Template},
		{"a link to a link", w, w.assets + "/twice", rootfs, disk.Template},
		{"below a root that is a link", alias, w.outside + "/alias/rootfs", rootfs, disk.Template},
		{"below the place that a root's link leads to", alias, rootfs, rootfs, disk.Template},
		{"an absolute link by the root's other name", alias, w.assets + "/round-about", rootfs, disk.Template},
		{"roots with slashes at the end", slash, w.volumes + "/data", w.volumes + "/data", disk.Volume},
		{"no assets directory", only, w.volumes + "/data", w.volumes + "/data", disk.Volume},
		{"the other root is not there", unmade, rootfs, rootfs, disk.Template},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := tc.world.roots.Resolve(tc.path)
			if err != nil {
				t.Fatal(err)
			}
			if f.Path != tc.want || f.Kind != tc.kind {
				t.Errorf("%q came to %q of kind %d, want %q of kind %d", tc.path, f.Path, f.Kind, tc.want, tc.kind)
			}
			var st unix.Stat_t
			if err := unix.Stat(tc.want, &st); err != nil {
				t.Fatal(err)
			}
			if f.Device != st.Dev || f.Inode != st.Ino || f.Size != st.Size {
				t.Errorf("device %d inode %d size %d, want %d %d %d", f.Device, f.Inode, f.Size, st.Dev, st.Ino, st.Size)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	w := newWorld(t)
	link(t, w.outside+"/secret", w.assets+"/out")
	link(t, w.outside+"/nothing", w.assets+"/out-missing")
	link(t, "../outside/secret", w.assets+"/up")
	link(t, w.outside, w.assets+"/outdir")
	link(t, w.assets+"/../outside/secret", w.assets+"/dots")
	link(t, w.assets+"-not/secret", w.assets+"/prefix")
	link(t, "/", w.assets+"/slash")
	link(t, w.volumes+"/data", w.assets+"/other-root")
	link(t, "/proc/self/root"+w.outside+"/secret", w.assets+"/magic")
	link(t, "dangling-target", w.assets+"/dangling")
	link(t, "loop-b", w.assets+"/loop-a")
	link(t, "loop-a", w.assets+"/loop-b")
	special(t, w)

	const (
		form    = "must be absolute and have no '..'"
		outside = "VMs may use files below"
		escapes = "out of its directory by a symbolic link"
		missing = "there is no such file"
	)
	gone := w
	gone.roots.Volumes = w.volumes + "/unmade"
	for _, tc := range []struct {
		name  string
		world world
		path  string
		want  string
	}{
		{"empty", w, "", form},
		{"relative", w, "assets/rootfs", form},
		{"dots", w, w.assets + "/../assets/rootfs", form},
		{"dots that stay inside", w, w.assets + "/deep/../rootfs", form},
		{"dots at the end", w, w.assets + "/deep/..", form},
		{"NUL", w, w.assets + "/rootfs\x00.img", form},
		{"a file outside", w, w.outside + "/secret", outside},
		{"a sibling whose name begins like the root", w, w.assets + "-not/rootfs", outside},
		{"the root itself", w, w.assets, outside},
		{"the root itself with a slash", w, w.assets + "/", outside},
		{"the root of the host", w, "/", outside},
		{"no roots", world{}, w.assets + "/rootfs", outside},
		{"missing", w, w.assets + "/nothing", missing},
		{"missing in a directory that is missing", w, w.assets + "/nothing/at/all", missing},
		{"below a root that is not there", gone, w.volumes + "/unmade/data", missing},
		{"a dangling link", w, w.assets + "/dangling", missing},
		{"below a file", w, w.assets + "/rootfs/x", "not a directory"},
		{"too long a name", w, w.assets + "/" + strings.Repeat("n", 256), "name too long"},
		{"links in a circle", w, w.assets + "/loop-a", "too many levels of symbolic links"},
		{"a link out", w, w.assets + "/out", escapes},
		{"a link out to nothing", w, w.assets + "/out-missing", escapes},
		{"a link up and out", w, w.assets + "/up", escapes},
		{"a link to a directory outside", w, w.assets + "/outdir/secret", escapes},
		{"the same for what is missing there", w, w.assets + "/outdir/nothing", escapes},
		{"an absolute link that goes up", w, w.assets + "/dots", escapes},
		{"a link to a sibling that begins like the root", w, w.assets + "/prefix", escapes},
		{"a link to the root of the host", w, w.assets + "/slash" + w.outside + "/secret", escapes},
		{"a link from one root to the other", w, w.assets + "/other-root", escapes},
		{"a link through /proc", w, w.assets + "/magic", escapes},
		{"a directory", w, w.assets + "/deep", "this is a directory, not a regular file"},
		{"a directory with a slash", w, w.assets + "/deep/", "this is a directory, not a regular file"},
		{"a FIFO", w, w.assets + "/fifo", "this is a FIFO, not a regular file"},
		{"a link to a FIFO", w, w.assets + "/to-fifo", "this is a FIFO, not a regular file"},
		{"a socket", w, w.assets + "/listener", "this is a socket, not a regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantRefused(t, tc.world.roots, tc.path, tc.want)
		})
	}
}

// special makes what is no regular file: a FIFO that nobody writes to and a socket.
func special(t *testing.T, w world) {
	t.Helper()
	if err := unix.Mkfifo(w.assets+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	link(t, "fifo", w.assets+"/to-fifo")
	short, err := os.MkdirTemp("", "m") // a socket's address has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	rename(t, short+"/s", w.assets+"/listener")
}

// wantRefused wants an error with want in it, soon, that does not repeat the path.
func wantRefused(t *testing.T, roots disk.Roots, path, want string) {
	t.Helper()
	refused := make(chan error, 1)
	go func() {
		_, err := roots.Resolve(path)
		refused <- err
	}()
	select {
	case err := <-refused:
		if err == nil {
			t.Fatalf("%q was found", path)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q does not say %q", path, err, want)
		}
		if base := filepath.Base(path); len(base) > 3 && base != "assets" && strings.Contains(err.Error(), base) {
			t.Errorf("%q: the error repeats the path: %q", path, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%q: no answer within 10 s", path)
	}
}

func TestResolveRefusesDevices(t *testing.T) {
	w := newWorld(t)
	for name, mode := range map[string]uint32{"null": unix.S_IFCHR, "loop": unix.S_IFBLK} {
		if err := unix.Mknod(w.assets+"/"+name, mode|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Skipf("this test may not make a device: %v", err)
		}
		wantRefused(t, w.roots, w.assets+"/"+name, "this is a device, not a regular file")
	}
}

// What is outside must not be told apart by asking: a client could map the host.
func TestResolveTellsNothingOfTheOutside(t *testing.T) {
	w := newWorld(t)
	link(t, w.outside, w.assets+"/outdir")
	link(t, w.outside+"/secret", w.assets+"/to-file")
	link(t, w.outside+"/nothing", w.assets+"/to-nothing")
	link(t, w.outside+"/dir", w.assets+"/to-dir")
	for name, paths := range map[string][]string{
		"by path": {"/secret", "/nothing", "/dir", "/secret/below", "/nothing/below"},
		"by link": {"/outdir/secret", "/outdir/nothing", "/outdir/dir", "/to-file", "/to-nothing", "/to-dir", "/to-file/below"},
	} {
		t.Run(name, func(t *testing.T) {
			base := w.outside
			if name == "by link" {
				base = w.assets
			}
			_, first := w.roots.Resolve(base + paths[0])
			for _, path := range paths {
				if _, err := w.roots.Resolve(base + path); err == nil || err.Error() != first.Error() {
					t.Errorf("%s: %v\nbut %s: %v", path, err, paths[0], first)
				}
			}
		})
	}
}

// A file in both roots belongs to the inner one, by whatever path it was asked for.
func TestResolveOfRootsInEachOther(t *testing.T) {
	w := newWorld(t)
	mkdir(t, w.assets+"/inner")
	write(t, w.assets+"/inner/file", "x")
	link(t, "inner/file", w.assets+"/into")
	link(t, "../rootfs", w.assets+"/inner/out")
	for _, tc := range []struct {
		name         string
		roots        disk.Roots
		inner, outer disk.Kind
	}{
		{"volumes in assets", disk.Roots{Assets: w.assets, Volumes: w.assets + "/inner"}, disk.Volume, disk.Template},
		{"assets in volumes", disk.Roots{Assets: w.assets + "/inner", Volumes: w.assets}, disk.Template, disk.Volume},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for path, want := range map[string]disk.Kind{"/inner/file": tc.inner, "/into": tc.inner, "/rootfs": tc.outer} {
				f, err := tc.roots.Resolve(w.assets + path)
				if err != nil || f.Kind != want {
					t.Errorf("%s: kind %d, %v; want kind %d", path, f.Kind, err, want)
				}
			}
			wantRefused(t, tc.roots, w.assets+"/inner/out", "out of its directory")
			wantRefused(t, tc.roots, w.assets+"/inner/", "a directory")
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	assets := b.TempDir()
	if err := os.WriteFile(assets+"/rootfs", nil, 0o644); err != nil {
		b.Fatal(err)
	}
	roots := disk.Roots{Assets: assets, Volumes: b.TempDir()}
	for b.Loop() {
		if _, err := roots.Resolve(assets + "/rootfs"); err != nil {
			b.Fatal(err)
		}
	}
}
