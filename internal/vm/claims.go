package vm

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// fileID names a file whatever path leads to it. An inode number alone goes to the next file once it is free.
type fileID struct {
	device, inode uint64
	born          int64
}

func idOf(v store.Volume) fileID { return fileID{v.Device, v.Inode, v.Born} }

// claims is who has which volume: one writer, or any number of readers. A claim is held as long as the VM
// exists, running or not.
type claims map[fileID]*claim

type claim struct {
	writer  types.VMID
	readers map[types.VMID]bool
}

// take claims v for id. A conflict is KindPrecondition.
func (c claims) take(id types.VMID, v store.Volume) *types.Error {
	key := idOf(v)
	held := c[key]
	switch {
	case held == nil:
		held = &claim{readers: map[types.VMID]bool{}}
		c[key] = held
	case held.writer == id || held.readers[id]:
		return types.Errorf(types.KindInvalid, "this volume is attached twice to the same VM")
	case held.writer != "":
		return types.Errorf(types.KindPrecondition, "this volume is attached to VM %s, which may write to it; delete that VM first", held.writer)
	case !v.ReadOnly:
		return types.Errorf(types.KindPrecondition, "this volume is attached read-only to %d other VMs, so it cannot be attached for writing", len(held.readers))
	}
	if v.ReadOnly {
		held.readers[id] = true
	} else {
		held.writer = id
	}
	return nil
}

// holds tells whether id has the claim v.
func (c claims) holds(id types.VMID, v store.Volume) bool {
	held := c[idOf(v)]
	return held != nil && (held.writer == id || (v.ReadOnly && held.readers[id]))
}

func (c claims) give(id types.VMID, v store.Volume) {
	key := idOf(v)
	held := c[key]
	if held == nil {
		return
	}
	if held.writer == id {
		held.writer = ""
	}
	delete(held.readers, id)
	if held.writer == "" && len(held.readers) == 0 {
		delete(c, key)
	}
}
