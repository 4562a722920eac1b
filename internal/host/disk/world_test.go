package disk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// world is a host's directories: two roots, and an outside that has a secret in it.
type world struct {
	assets, volumes, outside string
	roots                    disk.Roots
}

func newWorld(t *testing.T) world {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := world{assets: base + "/assets", volumes: base + "/volumes", outside: base + "/outside"}
	for _, path := range []string{w.assets + "/deep", w.volumes, w.outside + "/dir"} {
		mkdir(t, path)
	}
	write(t, w.assets+"/rootfs", "rootfs")
	write(t, w.assets+"/deep/kernel", "kernel")
	write(t, w.volumes+"/data", "data")
	write(t, w.outside+"/secret", "secret")
	write(t, w.outside+"/rootfs", "secret")
	w.roots = disk.Roots{Assets: w.assets, Volumes: w.volumes}
	return w
}

func (w world) resolve(t *testing.T, path string) disk.File {
	t.Helper()
	f, err := w.roots.Resolve(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

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

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// mountTmpfs mounts a small filesystem in memory and returns where.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	target := t.TempDir()
	err := unix.Mount("none", target, "tmpfs", 0, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("this test may not mount: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, target) })
	return target
}

// mountImage makes a filesystem in a file and mounts it.
func mountImage(t *testing.T, mkfs string, size int64) string {
	t.Helper()
	for _, tool := range []string{mkfs, "mount", "losetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("this machine lacks %s", tool)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root mounts images")
	}
	image, target := filepath.Join(t.TempDir(), "image"), t.TempDir()
	write(t, image, "")
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, image).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, target).CombinedOutput(); err != nil {
		t.Skipf("this machine cannot mount an image: %v: %s", err, out)
	}
	t.Cleanup(func() { unmount(t, target) })
	return target
}

func unmount(t *testing.T, target string) {
	t.Helper()
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		t.Errorf("unmount %s: %v", target, err)
	}
}
