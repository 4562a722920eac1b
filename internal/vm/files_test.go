package vm

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// newHost is a manager without backend or store, whose directories are there.
func newHost(t *testing.T) *Manager {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &Manager{claims: claims{}, cfg: Config{
		StateDir: base + "/state",
		Roots:    disk.Roots{Assets: base + "/assets", Volumes: base + "/volumes"},
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}}
	for _, dir := range []string{m.cfg.StateDir + "/vms", m.cfg.Roots.Assets, m.cfg.Roots.Volumes} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{m.cfg.Roots.Assets + "/kernel", m.cfg.Roots.Assets + "/rootfs", m.cfg.Roots.Volumes + "/data"} {
		writeFile(t, path, filepath.Base(path))
	}
	return m
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// spec asks for a template to write to, a template to read and a volume.
func (m *Manager) spec() types.Spec {
	return types.Spec{
		Boot: types.Boot{KernelPath: m.cfg.Roots.Assets + "/kernel"},
		Disks: []types.Disk{
			{ID: "root", Path: m.cfg.Roots.Assets + "/rootfs", Root: true},
			{ID: "tools", Path: m.cfg.Roots.Assets + "/rootfs", ReadOnly: true},
			{ID: "data", Path: m.cfg.Roots.Volumes + "/data"},
		},
	}
}

func TestResolveSpec(t *testing.T) {
	m := newHost(t)
	f, err := m.resolve("vm", m.spec())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{m.vmDir("vm") + "/disk0.raw", m.cfg.Roots.Assets + "/rootfs", m.cfg.Roots.Volumes + "/data"}
	if strings.Join(f.disks, " ") != strings.Join(want, " ") {
		t.Errorf("disks %q, want %q", f.disks, want)
	}
	if len(f.volumes) != 1 || f.volumes[0].Disk != 2 || f.volumes[0].ReadOnly || f.volumes[0].Inode == 0 {
		t.Errorf("volumes %+v, want disk 2 for writing", f.volumes)
	}
	if len(f.clones) != 1 || f.clones[0].Path != m.cfg.Roots.Assets+"/rootfs" {
		t.Errorf("clones %+v, want one of disk 0", f.clones)
	}
	if f.kernel != m.cfg.Roots.Assets+"/kernel" || f.initrd != "" {
		t.Errorf("kernel %q, initrd %q", f.kernel, f.initrd)
	}
}

func TestResolveSpecNamesTheField(t *testing.T) {
	m := newHost(t)
	for field, spoil := range map[string]func(*types.Spec){
		"config.boot.kernel_path": func(s *types.Spec) { s.Boot.KernelPath = "/etc/passwd" },
		"config.boot.initrd_path": func(s *types.Spec) { s.Boot.InitrdPath = m.cfg.Roots.Assets },
		"config.storage[0].path":  func(s *types.Spec) { s.Disks[0].Path = "" },
		"config.storage[2].path":  func(s *types.Spec) { s.Disks[2].Path += "-not" },
	} {
		spec := m.spec()
		spoil(&spec)
		_, err := m.resolve("vm", spec)
		wantError(t, err, types.KindInvalid, field)
	}
}

func TestMakeDir(t *testing.T) {
	m := newHost(t)
	f, err := m.resolve("vm", m.spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.makeDir(t.Context(), "vm", uint32(os.Getuid()), uint32(os.Getgid()), f); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(m.vmDir("vm"))
	if err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the directory is %v, %v; want 700", info.Mode(), err)
	}
	content, err := os.ReadFile(f.disks[0])
	if err != nil || string(content) != "rootfs" {
		t.Errorf("the copy holds %q, %v", content, err)
	}
}

func TestMakeDirSaysWhatIsWrong(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name  string
		ctx   context.Context
		spoil func(t *testing.T, m *Manager)
		kind  types.Kind
		field string
	}{
		{"the disk is full", t.Context(), fullStateDir, types.KindExhausted, "config.storage[0].path"},
		{"the template is gone", t.Context(), func(t *testing.T, m *Manager) {
			if err := os.Remove(m.cfg.Roots.Assets + "/rootfs"); err != nil {
				t.Fatal(err)
			}
		}, types.KindPrecondition, "config.storage[0].path"},
		{"the caller gave up", canceled, func(*testing.T, *Manager) {}, types.KindCanceled, "config.storage[0].path"},
		{"something is in the way", t.Context(), func(t *testing.T, m *Manager) {
			writeFile(t, m.vmDir("vm"), "")
		}, types.KindInternal, ""},
		{"the state directory is gone", t.Context(), func(t *testing.T, m *Manager) {
			if err := os.RemoveAll(m.cfg.StateDir); err != nil {
				t.Fatal(err)
			}
		}, types.KindInternal, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newHost(t)
			f, err := m.resolve("vm", m.spec())
			if err != nil {
				t.Fatal(err)
			}
			tc.spoil(t, m)
			wantError(t, m.makeDir(tc.ctx, "vm", uint32(os.Getuid()), uint32(os.Getgid()), f), tc.kind, tc.field)
			if _, err := os.Lstat(f.disks[0]); err == nil {
				t.Error("a copy is left")
			}
		})
	}
}

// fullStateDir gives the VMs a filesystem that holds a directory and no copy.
func fullStateDir(t *testing.T, m *Manager) {
	t.Helper()
	target := m.cfg.StateDir + "/vms"
	err := unix.Mount("none", target, "tmpfs", 0, "size=16k")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("this test may not mount: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(m.cfg.Roots.Assets+"/rootfs", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, kind types.Kind, field string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field {
		t.Errorf("%#v (%v), want kind %d about %q", err, err, kind, field)
	}
}

// A device number that changed over a restart of the host does not make two files of one: the VM that holds the
// volume can boot, and no other gets it.
func TestReserveFindsVolumesUnderTheirNewDevice(t *testing.T) {
	m := newHost(t)
	spec := m.spec()
	f, err := m.resolve("vm", spec)
	if err != nil {
		t.Fatal(err)
	}
	now := f.volumes[0]
	if now.Born == 0 {
		t.Skip("this filesystem does not keep the time of birth")
	}
	for _, tc := range []struct {
		name   string
		change func(*store.Volume)
		same   bool
	}{
		{"nothing changed", func(*store.Volume) {}, true},
		{"another device", func(v *store.Volume) { v.Device++ }, true},
		{"another device and inode", func(v *store.Volume) { v.Device++; v.Inode++ }, false},
		{"another device and birth", func(v *store.Volume) { v.Device++; v.Born++ }, false},
		{"no time of birth", func(v *store.Volume) { v.Device++; v.Born = 0 }, false},
		{"a disk that the spec has not", func(v *store.Volume) { v.Device++; v.Disk = 3 }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			recorded := now
			tc.change(&recorded)
			m.claims, m.slots = claims{}, slots{}
			rec := store.Record{ID: "vm", Seq: 12, Slot: 3, Spec: spec, Volumes: []store.Volume{recorded}}
			m.reserve([]store.Record{rec})
			if err := m.stillHeld("vm", []store.Volume{now}); (err == nil) != tc.same {
				t.Errorf("the VM has its volume: %v, want %t", err, tc.same)
			}
			if err := m.claimVolumes("other", []store.Volume{now}); (err != nil) != tc.same {
				t.Errorf("another VM gets it: %v, want a refusal: %t", err, tc.same)
			}
			m.releaseVolumes("vm", rec.Volumes)
			if err := m.claims.take("third", now); tc.same && err != nil {
				t.Errorf("what was reserved was not given back: %v", err)
			}
			if got := m.slots.take(); got != 0 || m.seq != 12 {
				t.Errorf("slot %d and seq %d are next, want 0 and 13", got, m.seq+1)
			}
		})
	}
}
