package conformance

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// written is a file that guests write; its name is then on the disk, whatever the file system.
const written = "/written-by-the-suite"

// writes makes a guest write that file.
func writes() []string { return []string{guest.ArgWrite + "=4096", guest.ArgWriteTo + "=" + written} }

const volumeField = "config.storage[1].path"

func diskSentences() []sentence {
	return []sentence{
		{"a disk that is asked read-only is read-only", []Ability{Guest, GuestDisks}, readOnlyDisk},
		{"a template is copied per VM, and no VM sees what another writes", []Ability{GuestDisks}, privateCopies},
		{"a volume has one writer, until that VM is deleted", nil, exclusiveVolume},
		{"a volume that is only read is shared", nil, sharedVolume},
		{"a volume that was replaced is not attached", nil, replacedVolume},
		{"a VM boots again when its template is gone", nil, templateGone},
	}
}

// disk is a VM's private copy of its root disk.
func (s *site) disk(id types.VMID) string {
	return filepath.Join(s.dir, "vms", string(id), "disk0.raw")
}

// isWritten tells whether the file that guests write is on a VM's disk.
func (s *site) isWritten(id types.VMID) bool {
	s.t.Helper()
	content, err := os.ReadFile(s.disk(id))
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes.Contains(content, []byte(filepath.Base(written)))
}

func (s *site) hash(path string) [sha256.Size]byte {
	s.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		s.t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// consoleSize is how much of the disk a VM's console takes.
func (s *site) consoleSize(id types.VMID) (size int64) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "vms", string(id))
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && strings.HasSuffix(f.Name(), ".log") { // one that was rotated away takes nothing
			size += info.Size()
		}
	}
	return size
}

func readOnlyDisk(t *testing.T, s *site) {
	before := s.hash(s.h.RootDisk)
	spec := s.spec(guest.ArgTouch + "=/")
	spec.Disks[0].ReadOnly = true
	s.create("a", spec)
	s.boot("a")
	s.hears("a", guest.TouchRefused("/", "EROFS"))
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	if s.hash(s.h.RootDisk) != before {
		t.Error("a disk that was attached read-only has changed")
	}
}

func privateCopies(t *testing.T, s *site) {
	before := s.hash(s.h.RootDisk)
	s.create("reader", s.spec())
	s.guest("writer", writes()...)
	s.hears("writer", guest.Wrote(4096, written))
	if _, err := s.Shutdown(s.ctx(), "writer", false, s.h.BootTimeout); err != nil {
		t.Fatal(err)
	}
	if !s.isWritten("writer") {
		t.Error("what a guest wrote is not on its disk")
	}
	if s.hash(s.disk("reader")) != before {
		t.Error("what a guest wrote is on the disk of another")
	}
	if s.hash(s.h.RootDisk) != before {
		t.Error("a guest has changed the template of its disk")
	}
}

// with adds a disk to a spec.
func with(spec types.Spec, disk types.Disk) types.Spec {
	spec.Disks = append(spec.Disks, disk)
	return spec
}

func readOnly(d types.Disk) types.Disk {
	d.ReadOnly = true
	return d
}

func exclusiveVolume(t *testing.T, s *site) {
	volume := s.volume("v")
	s.create("a", with(s.spec(), volume))
	_, err := s.Create(s.ctx(), "b", with(s.spec(), volume))
	s.wantKind(err, types.KindPrecondition, volumeField)
	_, err = s.Create(s.ctx(), "b", with(s.spec(), readOnly(volume)))
	s.wantKind(err, types.KindPrecondition, volumeField)
	link := volume
	link.Path += "-link"
	if err := os.Link(volume.Path, link.Path); err != nil {
		t.Fatal(err)
	}
	s.restart()
	_, err = s.Create(s.ctx(), "b", with(s.spec(), link))
	s.wantKind(err, types.KindPrecondition, volumeField)
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	s.create("b", with(s.spec(), volume))
	if _, err := os.Stat(volume.Path); err != nil {
		t.Errorf("a volume went with its VM: %v", err)
	}
}

func sharedVolume(_ *testing.T, s *site) {
	volume := s.volume("v")
	s.create("a", with(s.spec(), readOnly(volume)))
	s.create("b", with(s.spec(), readOnly(volume)))
	_, err := s.Create(s.ctx(), "c", with(s.spec(), volume))
	s.wantKind(err, types.KindPrecondition, volumeField)
}

func replacedVolume(t *testing.T, s *site) {
	volume := s.volume("v")
	s.create("a", with(s.spec(), volume))
	s.boot("a")
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(volume.Path, volume.Path+"-old"); err != nil {
		t.Fatal(err)
	}
	s.volume("v")
	_, err := s.Boot(s.ctx(), "a")
	s.wantKind(err, types.KindPrecondition, volumeField)
	s.wantState("a", lifecycle.Shutdown)
}

func templateGone(t *testing.T, s *site) {
	spec := s.spec()
	if len(spec.Disks) == 0 {
		t.Skip("this harness has no root disk")
	}
	assets := filepath.Join(s.dir, "assets") // not the harness's, which others use
	if err := os.Mkdir(assets, 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(s.h.RootDisk)
	if err != nil {
		t.Fatal(err)
	}
	spec.Disks[0].Path = filepath.Join(assets, "disk")
	if err := os.WriteFile(spec.Disks[0].Path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	s.h.AssetsDir, s.volumes = assets, s.h.AssetsDir // a kernel may come from either
	s.restart()
	s.create("a", spec)
	s.boot("a")
	if err := os.Remove(spec.Disks[0].Path); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Reboot(s.ctx(), "a", true, 0); err != nil || info.State != lifecycle.Running {
		t.Errorf("rebooted to %+v, %v", info, err)
	}
}
