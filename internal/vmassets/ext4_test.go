package vmassets

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// buildDisk makes the root disk alone and returns its path.
func buildDisk(t *testing.T) string {
	t.Helper()
	needDiskTools(t)
	out := t.TempDir()
	cfg := Config{Out: out, Source: source, Log: t.Output()}
	if _, err := buildRootDisk(t.Context(), cfg, t.TempDir(), stamp{}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(out, RootDiskFile)
}

// debugfs asks the disk itself.
func debugfs(t *testing.T, disk, request string) string {
	t.Helper()
	path, err := lookTool(toolDebugfs)
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(path, "-R", request, disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestRootDiskContent(t *testing.T) {
	disk := buildDisk(t)
	for path, want := range map[string][]string{
		"/sbin/init":    {"Type: regular", "Mode:  0755", "User:     0   Group:     0"},
		"/bin/busybox":  {"Type: regular", "Mode:  0755"},
		"/bin/sh":       {"Type: symlink", `Fast link dest: "busybox"`},
		"/dev/console":  {"Type: character special", "Device major/minor number: 05:01"},
		"/dev/null":     {"Type: character special", "Device major/minor number: 01:03"},
		"/proc":         {"Type: directory", "Mode:  0755"},
		"/usr/bin":      {`Fast link dest: "../bin"`},
		"/etc/hostname": {"Mode:  0644"},
	} {
		got := debugfs(t, disk, "stat "+path)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in\n%s", path, w, got)
			}
		}
	}
	if info, err := os.Stat(disk); err != nil || info.Size() != rootDiskSize {
		t.Errorf("disk %v, error %v; want %d bytes", info, err, rootDiskSize)
	}
	if err := checkDisk(disk); err != nil {
		t.Error(err)
	}
	fsck, err := lookTool(tool{"e2fsck", "e2fsprogs"})
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(fsck, "-f", "-n", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// Whoever makes the disk, its files belong to root.
func TestRootDiskOwners(t *testing.T) {
	needDiskTools(t)
	if os.Getuid() != 0 {
		t.Skip("only root can lay out a tree that belongs to somebody else")
	}
	tree := filepath.Join(t.TempDir(), "root")
	busybox, err := staticBusybox()
	if err != nil {
		t.Skip(err)
	}
	if err := stageRoot(t.Context(), tree, busybox, busybox); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 1234, 1234)
	})
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), RootDiskFile)
	if err := makeExt4(t.Context(), tree, disk); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/bin", "/bin/sh", "/bin/busybox", "/sbin/init", "/usr/bin", "/root"} {
		if got := debugfs(t, disk, "stat "+path); !strings.Contains(got, "User:     0   Group:     0") {
			t.Errorf("%s belongs to somebody else:\n%s", path, got)
		}
	}
}

func TestCheckDiskKnowsAJournalToReplay(t *testing.T) {
	disk := buildDisk(t)
	path, err := lookTool(toolDebugfs)
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(path, "-w", "-R", "feature needs_recovery", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := checkDisk(disk); err == nil || !strings.Contains(err.Error(), "not unmounted") {
		t.Errorf("error %v", err)
	}
}
