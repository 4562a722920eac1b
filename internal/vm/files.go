package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

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

// resolve finds the files of a spec that is new. It changes nothing.
func (m *Manager) resolve(id types.VMID, spec types.Spec) (files, error) {
	f, err := m.resolveBoot(spec.Boot)
	if err != nil {
		return f, err
	}
	for i, d := range spec.Disks {
		file, err := m.cfg.Roots.Resolve(d.Path)
		if err != nil {
			return f, types.FieldErrorf(types.KindInvalid, diskField(i), "%w", err)
		}
		path := file.Path
		switch {
		case file.Kind == disk.Volume:
			f.volumes = append(f.volumes, volume(i, file, d.ReadOnly))
		case !d.ReadOnly:
			f.clones[i] = file
			path = m.clonePath(id, i)
		}
		f.disks = append(f.disks, path)
	}
	return f, nil
}

// resolveBoot finds the kernel and the initrd.
func (m *Manager) resolveBoot(boot types.Boot) (files, error) {
	f := files{clones: map[int]disk.File{}}
	kernel, err := m.cfg.Roots.Resolve(boot.KernelPath)
	if err != nil {
		return f, types.FieldErrorf(types.KindInvalid, "config.boot.kernel_path", "%w", err)
	}
	f.kernel = kernel.Path
	if boot.InitrdPath != "" {
		initrd, err := m.cfg.Roots.Resolve(boot.InitrdPath)
		if err != nil {
			return f, types.FieldErrorf(types.KindInvalid, "config.boot.initrd_path", "%w", err)
		}
		f.initrd = initrd.Path
	}
	return f, nil
}

// resolveAgain finds the files of a VM that boots again: the very volumes that it holds, and its private copies,
// whatever became of the templates.
func (m *Manager) resolveAgain(rec store.Record) (files, error) {
	f, err := m.resolveBoot(rec.Spec.Boot)
	if err != nil {
		return f, err
	}
	held := map[int]store.Volume{}
	for _, v := range rec.Volumes {
		held[v.Disk] = v
	}
	for i, d := range rec.Spec.Disks {
		v, isVolume := held[i]
		if !isVolume && !d.ReadOnly {
			f.disks = append(f.disks, m.clonePath(rec.ID, i))
			continue
		}
		file, err := m.cfg.Roots.Resolve(d.Path)
		if err != nil {
			return f, types.FieldErrorf(types.KindInvalid, diskField(i), "%w", err)
		}
		if isVolume != (file.Kind == disk.Volume) || isVolume && volume(i, file, d.ReadOnly) != v {
			return f, types.FieldErrorf(types.KindPrecondition, diskField(i), "another file is at this path than when the VM was created")
		}
		f.disks = append(f.disks, file.Path)
	}
	return f, nil
}

func volume(i int, f disk.File, readOnly bool) store.Volume {
	return store.Volume{Disk: i, Device: f.Device, Inode: f.Inode, Born: f.Born, ReadOnly: readOnly}
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

// stillHeld checks that nobody else has a volume of a VM that boots again, which two records that hold one file
// could lead to.
func (m *Manager) stillHeld(id types.VMID, volumes []store.Volume) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range volumes {
		if !m.claims.holds(id, v) {
			return types.FieldErrorf(types.KindPrecondition, diskField(v.Disk), "another VM holds this volume")
		}
	}
	return nil
}

// makeDir makes the VM's directory and, for the user that its VMM runs as, the private copies of its disks in it.
func (m *Manager) makeDir(ctx context.Context, id types.VMID, uid, gid uint32, f files) error {
	if err := os.Mkdir(m.vmDir(id), 0o700); err != nil {
		return types.Errorf(kindOfDisk(err), "make the directory of VM %s: %w", id, err)
	}
	owner, group := ownerOf(uid, gid)
	for i := range f.disks {
		template, ok := f.clones[i]
		if !ok {
			continue
		}
		if err := disk.Clone(ctx, template, f.disks[i], owner, group); err != nil {
			return types.FieldErrorf(kindOfDisk(err), diskField(i), "%w", err)
		}
	}
	if len(f.clones) == 0 {
		return nil // an empty directory that a power cut takes back is made again
	}
	if err := disk.SyncDir(filepath.Dir(m.vmDir(id))); err != nil {
		return types.Errorf(kindOfDisk(err), "make the directory of VM %s: %w", id, err)
	}
	return nil
}

// ownerOf is whose the disks of a VMM are: its user's, or for 0 metald's own, whoever that is.
func ownerOf(uid, gid uint32) (owner, group int) {
	if uid == 0 {
		return os.Geteuid(), os.Getegid()
	}
	return int(uid), int(gid)
}

// kindOfDisk says what an error of making files is to the client.
func kindOfDisk(err error) types.Kind {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return types.KindExhausted
	case errors.Is(err, disk.ErrChanged):
		return types.KindPrecondition
	case errors.Is(err, disk.ErrUnreadable):
		return types.KindInvalid
	case errors.Is(err, context.DeadlineExceeded):
		return types.KindDeadline
	case errors.Is(err, context.Canceled):
		return types.KindCanceled
	}
	return types.KindInternal
}

func (m *Manager) removeDir(id types.VMID) error { return dir.Remove(m.vmDir(id)) }
