package vm

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// files is what the paths of a Spec came to on this host.
type files struct {
	kernel, initrd string
	disks          []string // per disk, what the VMM opens
	volumes        []store.Volume
	clones         map[int]disk.File // per disk that gets a private copy, its template
}

// resolve finds the files of a spec. It changes nothing.
func (m *Manager) resolve(id types.VMID, spec types.Spec) (files, error) {
	f := files{clones: map[int]disk.File{}}
	kernel, err := m.cfg.Roots.Resolve(spec.Boot.KernelPath)
	if err != nil {
		return f, types.FieldErrorf(types.KindInvalid, "config.boot.kernel_path", "%w", err)
	}
	f.kernel = kernel.Path
	if spec.Boot.InitrdPath != "" {
		initrd, err := m.cfg.Roots.Resolve(spec.Boot.InitrdPath)
		if err != nil {
			return f, types.FieldErrorf(types.KindInvalid, "config.boot.initrd_path", "%w", err)
		}
		f.initrd = initrd.Path
	}
	for i, d := range spec.Disks {
		file, err := m.cfg.Roots.Resolve(d.Path)
		if err != nil {
			return f, types.FieldErrorf(types.KindInvalid, diskField(i), "%w", err)
		}
		path := file.Path
		switch {
		case file.Kind == disk.Volume:
			f.volumes = append(f.volumes, store.Volume{Disk: i, Device: file.Device, Inode: file.Inode, ReadOnly: d.ReadOnly})
		case !d.ReadOnly:
			f.clones[i] = file
			path = m.clonePath(id, i)
		}
		f.disks = append(f.disks, path)
	}
	return f, nil
}

func diskField(i int) string { return fmt.Sprintf("config.storage[%d].path", i) }

// clonePath is where a VM keeps its private copy of a disk, for as long as it exists.
func (m *Manager) clonePath(id types.VMID, i int) string {
	return filepath.Join(m.vmDir(id), fmt.Sprintf("disk%d.raw", i))
}

// claimVolumes claims all of the volumes or none.
func (m *Manager) claimVolumes(id types.VMID, volumes []store.Volume) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range volumes {
		if err := m.claims.take(id, v); err != nil {
			for _, taken := range volumes[:i] {
				m.claims.give(id, taken)
			}
			err.Field = diskField(v.Disk)
			return err
		}
	}
	return nil
}

func (m *Manager) releaseVolumes(id types.VMID, volumes []store.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range volumes {
		m.claims.give(id, v)
	}
}

// stillHeld checks that a VM that boots again gets the very volumes that it claimed when it was created.
func (m *Manager) stillHeld(id types.VMID, volumes []store.Volume) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range volumes {
		if !m.claims.holds(id, v) {
			return types.FieldErrorf(types.KindPrecondition, diskField(v.Disk), "another file is at this path than when the VM was created")
		}
	}
	return nil
}

// makeDir makes the VM's directory and the private copies of its disks in it.
func (m *Manager) makeDir(id types.VMID, uid uint32, f files) error {
	if err := os.Mkdir(m.vmDir(id), 0o700); err != nil {
		return types.Errorf(types.KindInternal, "make the directory of VM %s: %w", id, err)
	}
	for i, template := range f.clones {
		if err := disk.Clone(template, f.disks[i], int(uid), int(uid)); err != nil {
			return types.FieldErrorf(types.KindExhausted, diskField(i), "%w", err)
		}
	}
	return disk.SyncDir(filepath.Dir(m.vmDir(id)))
}

func (m *Manager) removeDir(id types.VMID) error { return dir.Remove(m.vmDir(id)) }
