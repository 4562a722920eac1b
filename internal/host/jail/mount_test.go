package jail_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// elsewhere is a world whose sources are on another file system.
func elsewhere(t *testing.T) world {
	t.Helper()
	w := newWorld(t)
	tmpfs(t, w.files, 0)
	return w
}

func TestPlaceReadOnlyFromAnotherFileSystem(t *testing.T) {
	w := elsewhere(t)
	source := w.file(t, "kernel", "kernel", root, 0o644)
	before := stat(t, source)
	placed, err := w.Place(t.Context(), jail.File{Name: "kernel", Source: source})
	must(t, err)
	if placed.Way != jail.Copy {
		t.Errorf("placed as a %s", placed.Way)
	}
	wantUnchanged(t, source, before)
	if got, err := w.readAsVMM(t, "kernel", unix.O_RDONLY); err != nil || got != "kernel" {
		t.Errorf("the VMM reads %q, %v", got, err)
	}
}

func TestPlaceWritableFromAnotherFileSystem(t *testing.T) {
	w := elsewhere(t)
	source := w.file(t, "volume", "disk.", root, 0o600)
	loan := lend(t, w, source, jail.Mount)
	for range 2 {
		must(t, jail.Remove(t.Context(), w.dir))
		wantNothingAt(t, w.dir)
	}
	if m := mountsBelow(t, w.base); len(m) > 0 {
		t.Errorf("still mounted: %q", m)
	}
	if got := read(t, source); got != "guest" {
		t.Errorf("without the jail %q is in the source", got)
	}
	must(t, loan.Restore())
	if ownerOf(t, source) != root {
		t.Errorf("given back, it belongs to %v", ownerOf(t, source))
	}
}

// The host runs nothing, and opens no device, from what a guest may write.
func TestAMountedFileIsOnlyData(t *testing.T) {
	w := elsewhere(t)
	lend(t, w, w.file(t, "volume", "disk.", root, 0o600), jail.Mount)
	var st unix.Statfs_t
	must(t, unix.Statfs(w.root+"/disk-0", &st))
	if want := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC); int64(st.Flags)&want != want {
		t.Errorf("it is mounted with %#x", st.Flags)
	}
	must(t, jail.Remove(t.Context(), w.dir))
}

// The jailer takes the jail and what is mounted in it into a mount namespace of its own and makes it the root. What the
// guest writes there is in the source, and the jail can be removed while the namespace lives.
func TestAMountComesAlong(t *testing.T) {
	w := elsewhere(t)
	source := w.file(t, "volume", "disk.", root, 0o600)
	lend(t, w, source, jail.Mount)
	cmd := exec.Command("/bin/sh", "-ec", `
mount --make-rslave /
mount --rbind "$0" "$0"
cd "$0"
exec 3<>disk-0
mkdir old
pivot_root . old
printf 'inner' >&3
echo ready
read end
printf 'later' >&3`, w.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	if n, err := out.Read(make([]byte, 8)); n == 0 {
		cmd.Wait()
		t.Skipf("no root can be pivoted here: %v", err)
	}
	if got := read(t, source); got != "inner" {
		t.Errorf("the jail wrote, and %q is in the source", got)
	}
	must(t, jail.Remove(t.Context(), w.dir))
	wantNothingAt(t, w.dir)
	if m := mountsBelow(t, w.base); len(m) > 0 {
		t.Errorf("still mounted: %q", m)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Error(err)
	}
	must(t, cmd.Wait())
	if got := read(t, source); got != "innerlater" {
		t.Errorf("at the end %q is in the source", got)
	}
}

// Whatever is mounted in a jail, in whatever order and on whatever name, goes; what was mounted stays.
func TestRemoveUnmounts(t *testing.T) {
	for name, mount := range map[string]func(t *testing.T, w world){
		"a file system": func(t *testing.T, w world) { tmpfsIn(t, w.root+"/mnt") },
		"one in another": func(t *testing.T, w world) {
			tmpfsIn(t, w.root+"/mnt")
			tmpfsIn(t, w.root+"/mnt/deep/er")
		},
		"two on one name": func(t *testing.T, w world) {
			tmpfsIn(t, w.root+"/mnt")
			tmpfsIn(t, w.root+"/mnt")
		},
		"one that hides another": func(t *testing.T, w world) {
			tmpfsIn(t, w.root+"/a/b")
			tmpfsIn(t, w.root+"/a")
		},
		"on the root":         func(t *testing.T, w world) { tmpfsIn(t, w.root) },
		"on the jail":         func(t *testing.T, w world) { tmpfsIn(t, w.dir) },
		"a name with blanks":  func(t *testing.T, w world) { tmpfsIn(t, w.root+"/a b\t\\040\nc") },
		"the world, by bind":  func(t *testing.T, w world) { bind(t, w.outside, w.root+"/mnt") },
		"the jail itself":     func(t *testing.T, w world) { bind(t, w.root, w.root) },
		"a directory in use":  func(t *testing.T, w world) { tmpfsIn(t, w.root+"/mnt"); hold(t, w.root+"/mnt/x") },
		"beside a link to it": func(t *testing.T, w world) { tmpfsIn(t, w.root+"/mnt"); w.plant(t, "mnt", "link") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			mount(t, w)
			must(t, jail.Remove(t.Context(), w.dir))
			wantNothingAt(t, w.dir)
			if m := mountsBelow(t, w.base); len(m) > 0 {
				t.Errorf("still mounted: %q", m)
			}
		})
	}
}

// tmpfsIn mounts what the code under test is to unmount.
func tmpfsIn(t *testing.T, path string) {
	t.Helper()
	mkdir(t, path)
	if err := unix.Mount("none", path, "tmpfs", 0, ""); err != nil {
		t.Skipf("this test may not mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	mkdir(t, to)
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("this test may not mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
}

func hold(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
}
