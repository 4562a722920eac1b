package vmassets

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// staticBusybox finds a busybox that needs no libraries.
func staticBusybox() (string, error) {
	path, err := lookTool(toolBusybox)
	if err != nil {
		return "", err
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static; on Debian and Ubuntu: apt-get install -y %s", path, toolBusybox.pkg)
		}
	}
	return path, nil
}

// stageRoot lays out the guest's root directory.
func stageRoot(ctx context.Context, tree, init, busybox string) error {
	for _, dir := range []string{"bin", "sbin", "usr", "etc", "root", "dev", "proc", "sys", "run", "tmp", "mnt", "var"} {
		if err := mkdir(filepath.Join(tree, dir)); err != nil {
			return err
		}
	}
	if err := copyFile(init, filepath.Join(tree, "sbin/init"), 0o755); err != nil {
		return err
	}
	if err := copyFile(busybox, filepath.Join(tree, "bin/busybox"), 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"etc/passwd":   "root::0:0:root:/root:/bin/sh\n",
		"etc/group":    "root:x:0:\n",
		"etc/hostname": "metald-guest\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for link, to := range map[string]string{"usr/bin": "../bin", "usr/sbin": "../sbin", "var/run": "../run", "var/tmp": "../tmp"} {
		if err := os.Symlink(to, filepath.Join(tree, link)); err != nil {
			return err
		}
	}
	return linkApplets(ctx, tree, busybox)
}

func mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask
}

// linkApplets gives every program of busybox its name.
func linkApplets(ctx context.Context, tree, busybox string) error {
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet == "busybox" || applet == "init" || strings.Contains(applet, "/") {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", applet)); err != nil {
			return err
		}
	}
	return nil
}
