package qemu

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
)

func TestKernelForAnotherUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmlinuz")
	backendtest.Write(t, path, fakeBzImage("7.1.2"))
	must(t, os.Chmod(path, 0o600))
	file, err := os.Open(path)
	must(t, err)
	copied, err := forUser(file, 1000)
	must(t, err)
	defer copied.Close()
	content, err := io.ReadAll(io.NewSectionReader(copied, 0, 1<<20))
	info, statErr := copied.Stat()
	must(t, statErr)
	if err != nil || !bytes.Equal(content, fakeBzImage("7.1.2")) || info.Mode().Perm()&0o444 != 0o444 {
		t.Errorf("%d bytes of mode %v, %v", len(content), info.Mode(), err)
	}
}
