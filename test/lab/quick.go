package lab

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmassets"
)

// plainKernel writes the image's kernel, uncompressed, into dir and returns its path: to unpack it takes a second, and
// an emulated machine most of its boot.
func plainKernel(image Image, dir string) (string, error) {
	packed, err := os.ReadFile(image.Kernel)
	if err != nil {
		return "", err
	}
	kernel, err := vmassets.Uncompress(packed)
	if err != nil {
		return "", fmt.Errorf("%s: %w", image.Kernel, err)
	}
	path := filepath.Join(dir, "vmlinux")
	return path, os.WriteFile(path, kernel, 0o644)
}

//go:embed quick.sh
var quickInit []byte

// quickInitrd writes, into dir, the image's initrd with quick.sh as its first process, and returns its path. An initrd
// may be several archives one after the other; a file of a later one replaces that of an earlier one.
func quickInitrd(image Image, dir string) (string, error) {
	base, err := os.ReadFile(image.Initrd)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "initrd")
	return path, os.WriteFile(path, append(pad(base), archive("init", 0o100755, quickInit)...), 0o644)
}

// archive is a cpio archive, in the format that the kernel reads, of one file.
func archive(name string, mode uint32, content []byte) []byte {
	var out bytes.Buffer
	entry := func(name string, mode uint32, content []byte) {
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		out.Write(make([]byte, -out.Len()&3))
		out.Write(content)
		out.Write(make([]byte, -out.Len()&3))
	}
	entry(name, mode, content)
	entry("TRAILER!!!", 0, nil)
	return out.Bytes()
}

// pad returns b with zeros up to a multiple of 4 bytes, where the kernel expects an archive.
func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
