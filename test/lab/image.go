package lab

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// suite is the Debian of the lab. Its QEMU and kernel are what was tried.
	suite = "bookworm"
	// imageSize is the size of the root disk in bytes; its file is sparse.
	imageSize = 8 << 30
)

// packages are what the lab has beyond the smallest Debian. The kernel is the full one: the cloud flavour lacks KVM.
var packages = []string{
	"linux-image-amd64", "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "procps", "util-linux", "e2fsprogs", "busybox-static",
	"qemu-system-x86", "curl", "ca-certificates",
}

//go:embed setup.sh
var setup []byte

// Image is a lab machine's root disk, which no machine writes to, and what boots it.
type Image struct {
	Disk, Kernel, Initrd string
}

// MakeImage returns the image below dir, and makes it where there is none of this recipe. That takes root, and minutes.
func MakeImage(ctx context.Context, dir string, log io.Writer) (Image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	home := filepath.Join(dir, "image-"+recipe())
	image := Image{Disk: filepath.Join(home, "root.raw"), Kernel: filepath.Join(home, "vmlinuz"), Initrd: filepath.Join(home, "initrd")}
	if _, err := os.Stat(home); err == nil {
		return image, nil
	}
	if os.Geteuid() != 0 {
		return Image{}, errors.New("the lab's root disk is not made yet, and debootstrap makes it as root: run this once as root; later runs need no root")
	}
	fmt.Fprintf(log, "lab: making the root disk; this takes a few minutes, once\n")
	old, err := filepath.Glob(filepath.Join(dir, "image-*"))
	if err != nil {
		return Image{}, err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return Image{}, err
		}
	}
	return image, makeImage(ctx, home)
}

// recipe names what the image is made from.
func recipe() string {
	sum := sha256.New()
	fmt.Fprintln(sum, suite, imageSize, packages)
	sum.Write(setup)
	return hex.EncodeToString(sum.Sum(nil))[:16]
}

// makeImage makes home, whole or not at all.
func makeImage(ctx context.Context, home string) error {
	work, err := os.MkdirTemp(filepath.Dir(home), "image-work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree, out := filepath.Join(work, "tree"), filepath.Join(work, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	if err := debootstrap(ctx, tree); err != nil {
		return err
	}
	for from, to := range map[string]string{"boot/vmlinuz-lab": "vmlinuz", "boot/initrd-lab": "initrd"} {
		if err := copyFile(filepath.Join(tree, from), filepath.Join(out, to), 0o644); err != nil {
			return err
		}
	}
	if err := makeExt4(ctx, tree, filepath.Join(out, "root.raw"), imageSize); err != nil {
		return err
	}
	return os.Rename(out, home)
}

// debootstrap puts the lab's system into tree.
func debootstrap(ctx context.Context, tree string) error {
	program, err := find("debootstrap")
	if err != nil {
		return err
	}
	args := []string{"--variant=minbase", "--include=" + strings.Join(packages, ","), suite, tree}
	if from := mirror(ctx); from != "" { // else debootstrap knows where Debian is
		args = append(args, from)
	}
	if err := run(ctx, program, args...); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "setup.sh"), setup, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "chroot", tree, "/setup.sh"); err != nil {
		return err
	}
	return os.Remove(filepath.Join(tree, "setup.sh"))
}

// mirror is where packages come from: METALD_LAB_MIRROR, or what this machine's apt uses for the same Debian, or "".
func mirror(ctx context.Context) string {
	if from := os.Getenv("METALD_LAB_MIRROR"); from != "" {
		return from
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "" // no apt here
	}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == suite && fields[1] == "main" {
			return fields[2]
		}
	}
	return ""
}

// makeExt4 makes a file system at path with what is in tree.
func makeExt4(ctx context.Context, tree, path string, size int64) error {
	mke2fs, err := find("mke2fs")
	if err != nil {
		return err
	}
	return run(ctx, mke2fs, "-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1", "-d", tree, path, fmt.Sprintf("%dk", size>>10))
}
