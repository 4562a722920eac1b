package disk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

const mib = 1 << 20

// extent is a run of data in a file; the rest is a hole.
type extent struct{ at, n int64 }

func TestCloneIsTheSame(t *testing.T) {
	for _, tc := range []struct {
		name    string
		size    int64
		extents []extent
	}{
		{"empty", 0, nil},
		{"a byte", 1, []extent{{0, 1}}},
		{"no whole block", mib + 123, []extent{{0, mib + 123}}},
		{"all hole", 64 * mib, nil},
		{"holes between, before and after", 64 * mib, []extent{{mib, 4096}, {8 * mib, 3 * mib}, {40 * mib, 8192}}},
		{"data at the very end", 16*mib + 7, []extent{{16 * mib, 7}}},
		{"more than one step", 130 * mib, []extent{{0, 130 * mib}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			path := w.assets + "/image"
			makeSparse(t, path, tc.size, tc.extents)
			checkClone(t, w, path, filepath.Join(t.TempDir(), "disk0.raw"))
		})
	}
}

// checkClone clones path and compares.
func checkClone(t *testing.T, w world, path, dst string) {
	t.Helper()
	before := stat(t, path)
	sum := sha256File(t, path)
	if err := disk.Clone(t.Context(), w.resolve(t, path), dst, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if sha256File(t, dst) != sum {
		t.Error("the content differs")
	}
	got := stat(t, dst)
	if got.Size != before.Size {
		t.Errorf("%d bytes, want %d", got.Size, before.Size)
	}
	if got.Blocks > before.Blocks {
		t.Errorf("%d blocks on disk, its template has %d", got.Blocks, before.Blocks)
	}
	if got.Mode != unix.S_IFREG|0o600 {
		t.Errorf("mode %o, want a file of 600", got.Mode)
	}
	after := stat(t, path)
	if sha256File(t, path) != sum || after.Mode != before.Mode || after.Mtim != before.Mtim || after.Blocks != before.Blocks {
		t.Error("the template was touched")
	}
}

func TestCloneOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	w := newWorld(t)
	dst := filepath.Join(t.TempDir(), "disk0.raw")
	if err := disk.Clone(t.Context(), w.resolve(t, w.assets+"/rootfs"), dst, 61234, 61235); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, dst); st.Uid != 61234 || st.Gid != 61235 {
		t.Errorf("owned by %d:%d", st.Uid, st.Gid)
	}
}

func TestCloneOfATemplateThatNobodyMayWriteTo(t *testing.T) {
	w := newWorld(t)
	if err := os.Chmod(w.assets+"/rootfs", 0o444); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "disk0.raw")
	checkClone(t, w, w.assets+"/rootfs", dst)
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if got := stat(t, w.assets+"/rootfs").Size; got != int64(len("rootfs")) {
		t.Errorf("what was written to the copy is in the template: %d bytes", got)
	}
}

func TestCloneFailsAndLeavesNothing(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name  string
		ctx   context.Context
		spoil func(t *testing.T, w world, dst string)
		want  error
	}{
		{"the template is gone", t.Context(), func(t *testing.T, w world, _ string) { remove(t, w.assets+"/rootfs") }, disk.ErrChanged},
		{"the template was replaced by a link", t.Context(), func(t *testing.T, w world, _ string) {
			remove(t, w.assets+"/rootfs")
			link(t, w.outside+"/secret", w.assets+"/rootfs")
		}, disk.ErrChanged},
		{"its directory is not there", t.Context(), func(t *testing.T, _ world, dst string) { remove(t, filepath.Dir(dst)) }, fs.ErrNotExist},
		{"the caller gave up", canceled, func(*testing.T, world, string) {}, context.Canceled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			dst := filepath.Join(t.TempDir(), "vm", "disk0.raw")
			mkdir(t, filepath.Dir(dst))
			f := w.resolve(t, w.assets+"/rootfs")
			tc.spoil(t, w, dst)
			err := disk.Clone(tc.ctx, f, dst, os.Getuid(), os.Getgid())
			if !errors.Is(err, tc.want) {
				t.Errorf("Clone: %v, want %v", err, tc.want)
			}
			wantNothing(t, dst)
		})
	}
}

func TestCloneNeverReplaces(t *testing.T) {
	for name, occupy := range map[string]func(t *testing.T, w world, dst string){
		"a file":       func(t *testing.T, w world, dst string) { write(t, dst, "theirs") },
		"a link":       func(t *testing.T, w world, dst string) { link(t, w.outside+"/secret", dst) },
		"a loose link": func(t *testing.T, w world, dst string) { link(t, w.outside+"/new", dst) },
		"a directory":  func(t *testing.T, w world, dst string) { mkdir(t, dst) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			dst := filepath.Join(t.TempDir(), "disk0.raw")
			occupy(t, w, dst)
			before := stat(t, dst)
			err := disk.Clone(t.Context(), w.resolve(t, w.assets+"/rootfs"), dst, os.Getuid(), os.Getgid())
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("Clone: %v, want that it exists", err)
			}
			if after := stat(t, dst); after.Ino != before.Ino || after.Mtim != before.Mtim || after.Size != before.Size {
				t.Error("what was there was touched")
			}
			if content, err := os.ReadFile(w.outside + "/secret"); err != nil || string(content) != "secret" {
				t.Errorf("what lies outside was touched: %q, %v", content, err)
			}
			wantNothing(t, w.outside+"/new")
		})
	}
}

func TestCloneOnAFullDisk(t *testing.T) {
	small := mountTmpfs(t, "size=1m")
	w := newWorld(t)
	makeSparse(t, w.assets+"/image", 8*mib, []extent{{0, 8 * mib}})
	dst := small + "/disk0.raw"
	err := disk.Clone(t.Context(), w.resolve(t, w.assets+"/image"), dst, os.Getuid(), os.Getgid())
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Clone: %v, want ENOSPC", err)
	}
	wantNothing(t, dst)
	makeSparse(t, w.assets+"/sparse", 64*mib, []extent{{32 * mib, 4096}})
	checkClone(t, w, w.assets+"/sparse", dst)
}

// A template that is written to while it is copied must not become a copy that is half old and half new.
func TestCloneOfATemplateThatIsWrittenTo(t *testing.T) {
	w := newWorld(t)
	path := w.assets + "/image"
	makeSparse(t, path, 128*mib, []extent{{0, 128 * mib}})
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = out.WriteAt([]byte{byte(i)}, i%(128*mib))
			}
		}
	}()
	dst := filepath.Join(t.TempDir(), "disk0.raw")
	err = disk.Clone(t.Context(), w.resolve(t, path), dst, os.Getuid(), os.Getgid())
	close(stop)
	<-stopped
	if !errors.Is(err, disk.ErrChanged) {
		t.Errorf("Clone: %v, want ErrChanged", err)
	}
	wantNothing(t, dst)
}

func TestCloneSharesBlocks(t *testing.T) {
	for mkfs, size := range map[string]int64{"mkfs.xfs": 512 * mib, "mkfs.btrfs": 256 * mib} {
		t.Run(mkfs, func(t *testing.T) {
			w := newWorld(t)
			w.assets = mountImage(t, mkfs, size)
			w.roots.Assets = w.assets
			path, dst := w.assets+"/image", w.assets+"/disk0.raw"
			makeSparse(t, path, 64*mib, []extent{{0, 48 * mib}})
			before := free(t, w.assets)
			checkClone(t, w, path, dst)
			if used := before - free(t, w.assets); used > 8*mib {
				t.Errorf("a copy of 48 MiB took %d KiB: it shares nothing", used>>10)
			}
			sum := sha256File(t, path)
			write(t, dst, "the guest's own")
			if sha256File(t, path) != sum {
				t.Error("what was written to the copy is in the template")
			}
		})
	}
}

func BenchmarkClone(b *testing.B) {
	assets := b.TempDir()
	if err := os.WriteFile(assets+"/rootfs", bytes.Repeat([]byte("x"), 32*mib), 0o644); err != nil {
		b.Fatal(err)
	}
	f, err := disk.Roots{Assets: assets}.Resolve(assets + "/rootfs")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(f.Size)
	for b.Loop() {
		dst := assets + "/disk0.raw"
		if err := disk.Clone(b.Context(), f, dst, os.Getuid(), os.Getgid()); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(dst); err != nil {
			b.Fatal(err)
		}
	}
}

// makeSparse makes a file that has random data in extents and holes elsewhere.
func makeSparse(t *testing.T, path string, size int64, extents []extent) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{1})
	for _, e := range extents {
		data := make([]byte, e.n)
		_, _ = source.Read(data)
		if _, err := f.WriteAt(data, e.at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil { // blocks are allocated now
		t.Fatal(err)
	}
}

func sha256File(t *testing.T, path string) [32]byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st
}

func wantNothing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
}

// free is how many bytes a filesystem has left, with everything written.
func free(t *testing.T, path string) int64 {
	t.Helper()
	d, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := errors.Join(unix.Syncfs(int(d.Fd())), unix.Fstatfs(int(d.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}
