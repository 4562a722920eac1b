package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root removes what is in a directory that it may not write to")
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// freeze makes a directory one that nothing can be removed from; for root that takes an immutable one.
func freeze(t *testing.T, d *os.File, on bool) {
	t.Helper()
	if os.Getuid() != 0 {
		mode := os.FileMode(0o700)
		if on {
			mode = 0o500
		}
		if err := d.Chmod(mode); err != nil {
			t.Fatal(err)
		}
		return
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags, err := unix.IoctlGetInt(int(d.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		flags &^= immutable
		if on {
			flags |= immutable
		}
		err = unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	if err != nil && on {
		t.Skipf("this test may not make a directory immutable here: %v", err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// newCanary makes a directory that nothing may touch.
func newCanary(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	write(t, path+"/file", "alive")
	mkdir(t, path+"/deep")
	return path
}

func wantCanary(t *testing.T, path string) {
	t.Helper()
	wantNames(t, path, "deep", "file")
	content, err := os.ReadFile(filepath.Join(path, "file"))
	if err != nil || string(content) != "alive" {
		t.Errorf("what lies outside was touched: %q, %v", content, err)
	}
}

// names lists a directory in order; none for one that is not there.
func names(t *testing.T, path string) []string {
	t.Helper()
	d, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	found, err := d.Readdirnames(-1)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

func wantNames(t *testing.T, path string, want ...string) {
	t.Helper()
	if got := names(t, path); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

func mount(t *testing.T, source, target, fstype string, flags uintptr) {
	t.Helper()
	err := unix.Mount(source, target, fstype, flags, "")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("this test may not mount: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, target) })
}

// unmountAll unmounts what the tests mount below parent.
func unmountAll(t *testing.T, parent string) {
	t.Helper()
	for _, name := range []string{"vm", ".trash-X"} {
		for _, rest := range []string{"a/mnt", "a/on-file", ""} {
			unmount(t, filepath.Join(parent, name, rest))
		}
	}
}

func unmount(t *testing.T, target string) {
	t.Helper()
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("unmount %s: %v", target, err)
	}
}
