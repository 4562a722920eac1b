package harness

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// StubKernel is a bzImage as far as its header goes; the stand-ins for VMMs look no further.
func StubKernel() []byte {
	image := make([]byte, 4096)
	binary.LittleEndian.PutUint16(image[0x1fe:], 0xaa55)
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x020f)
	image[0x211] = 1 // LOADED_HIGH: a bzImage, not a zImage
	return image
}

// StubAssets makes an assets directory for the stand-ins: vmlinux and rootfs.ext4.
func StubAssets(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, content := range map[string][]byte{"vmlinux": StubKernel(), "rootfs.ext4": make([]byte, 64<<10)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}
