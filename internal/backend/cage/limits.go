package cage

import (
	"errors"
	"fmt"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

// Overhead is what a VMM needs beside its guest.
type Overhead struct {
	VMM     string // its name, for people
	Bytes   int64  // memory
	Part    int64  // one part of so many of the guest's memory on top
	Threads int    // beside one per vCPU
}

// memory is what a VM's cgroup needs for a guest with so many bytes at most.
func (o Overhead) memory(guest int64) int64 { return guest + o.Bytes + guest/o.Part }

// Limits are those of one VM, with its disks by their paths on the host.
func (c *Cage) Limits(o Overhead, spec types.Spec, disks []string) (cgroup.Limits, error) {
	need := o.memory(max(spec.Memory.SizeBytes, spec.Memory.MaxSizeBytes))
	if most := c.config.MemoryBytes; most != 0 && need > most {
		return cgroup.Limits{}, types.FieldErrorf(types.KindInvalid, "config.memory.size_bytes",
			"with %s's own the VM needs %d bytes, and UNKEY_METALD_JAILER_MEMORY_LIMIT is %d", o.VMM, need, most)
	}
	vcpus := max(spec.CPU.Count, spec.CPU.Max)
	l := cgroup.Limits{MemoryBytes: uint64(need), CPUQuota: uint32(c.config.CPUPercent), PIDs: uint32(vcpus + o.Threads)}
	if c.config.IOBytes == 0 {
		return l, nil
	}
	seen := map[[2]uint32]bool{}
	for i, path := range disks {
		major, minor, err := cgroup.DeviceOf(path)
		if err != nil {
			return l, types.FieldErrorf(types.KindPrecondition, fmt.Sprintf("config.storage[%d].path", i),
				"UNKEY_METALD_JAILER_IO_LIMIT cannot be kept for this disk: %w", plain(err))
		}
		if !seen[[2]uint32{major, minor}] {
			seen[[2]uint32{major, minor}] = true
			bps := uint64(c.config.IOBytes)
			l.IO = append(l.IO, cgroup.IOLimit{Major: major, Minor: minor, ReadBPS: bps, WriteBPS: bps})
		}
	}
	return l, nil
}

// plain takes the path out of an error of os: the field says which file, and the host's paths are not the client's.
func plain(err error) error {
	var inPath *os.PathError
	if errors.As(err, &inPath) {
		return inPath.Err
	}
	return err
}
