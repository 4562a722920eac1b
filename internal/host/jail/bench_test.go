package jail_test

import (
	"path/filepath"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// BenchmarkJail makes, fills and removes the jail of one VM whose files are on the same file system.
func BenchmarkJail(b *testing.B) {
	w := newWorld(b)
	kernel := w.file(b, "kernel", "kernel", root, 0o644)
	disk := w.file(b, "disk", "disk", root, 0o600)
	dir := filepath.Join(w.base, "firecracker", "vm-bench")
	for b.Loop() {
		j, err := jail.Make(dir+"/root", vmm)
		must(b, err)
		_, err = j.Place(b.Context(), jail.File{Name: "kernel", Source: kernel})
		must(b, err)
		placed, err := j.Place(b.Context(), jail.File{Name: "disk-0", Source: disk, Kind: jail.Writable})
		must(b, err)
		must(b, j.Dir("run"))
		must(b, j.FIFO(metrics))
		must(b, j.FIFO("log.fifo"))
		_, _, err = j.Executable("firecracker")
		must(b, err)
		must(b, jail.Remove(b.Context(), dir))
		must(b, placed.Loan.Restore())
		must(b, j.Close())
	}
}
