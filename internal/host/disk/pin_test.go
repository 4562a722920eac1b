package disk_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// A file that is pinned stays the same, whatever is put at its path.
func TestPin(t *testing.T) {
	w := newWorld(t)
	path := w.assets + "/deep/kernel"
	write(t, path, "pinned")
	f, err := disk.Pin(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !f.Same(w.resolve(t, path)) {
		t.Error("it is not the file that Resolve finds")
	}
	rename(t, path, w.assets+"/moved")
	link(t, w.outside+"/secret", path)
	in, err := f.Reopen()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if got, err := io.ReadAll(in); err != nil || string(got) != "pinned" {
		t.Errorf("read %q, %v", got, err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || string(got) != "pinned" {
		t.Errorf("by its name read %q, %v", got, err)
	}
}

func TestPinRefuses(t *testing.T) {
	w := newWorld(t)
	link(t, "rootfs", w.assets+"/link")
	link(t, w.assets+"/deep", w.assets+"/way")
	for _, name := range []string{"/link", "/way/kernel", "/deep", "/none"} {
		f, err := disk.Pin(w.assets + name)
		if err == nil {
			f.Close()
			t.Errorf("%s was pinned", name)
		}
		if errors.Is(err, os.ErrNotExist) != (name == "/none") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
