package sampler

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// reading is what u says of a VM: sums over all disks and over all interfaces, and UNKNOWN where one is missing. What a
// VM has not, it does not use.
func reading(u types.Usage, spec types.Spec) (r usage.Reading) {
	if u.CPUTime != nil && *u.CPUTime >= 0 {
		r.Put(usage.CPU, uint64(*u.CPUTime))
	}
	if u.MemoryBytes != nil && *u.MemoryBytes >= 0 {
		r.Put(usage.Resident, uint64(*u.MemoryBytes))
	}
	if d, ok := diskSum(u.Disks, spec.Disks); ok {
		putDisks(&r, d)
	}
	if n, ok := netSum(u.Networks, spec.Networks); ok {
		putNet(&r, n)
	}
	return r
}

// readingAsTold is reading for a VM of which nobody knows what it has, but by u.
func readingAsTold(u types.Usage) usage.Reading {
	var spec types.Spec
	for id := range u.Disks {
		spec.Disks = append(spec.Disks, types.Disk{ID: id})
	}
	for id := range u.Networks {
		spec.Networks = append(spec.Networks, types.Network{ID: id})
	}
	r := reading(u, spec)
	if u.Disks == nil {
		r.Forget(usage.DiskRead)
		r.Forget(usage.DiskWritten)
	}
	if u.Networks == nil {
		r.Forget(usage.NetReceived)
		r.Forget(usage.NetSent)
	}
	return r
}

func diskSum(counted map[string]types.DiskUsage, disks []types.Disk) (sum types.DiskUsage, ok bool) {
	for _, d := range disks {
		one, there := counted[d.ID]
		if !there || one.ReadBytes < 0 || one.WriteBytes < 0 {
			return sum, false
		}
		sum.ReadBytes += one.ReadBytes
		sum.WriteBytes += one.WriteBytes
	}
	return sum, sum.ReadBytes >= 0 && sum.WriteBytes >= 0
}

func netSum(counted map[string]types.NetworkUsage, networks []types.Network) (sum types.NetworkUsage, ok bool) {
	for _, n := range networks {
		one, there := counted[n.ID]
		if !there || one.ReceivedBytes < 0 || one.SentBytes < 0 {
			return sum, false
		}
		sum.ReceivedBytes += one.ReceivedBytes
		sum.SentBytes += one.SentBytes
	}
	return sum, sum.ReceivedBytes >= 0 && sum.SentBytes >= 0
}

func putDisks(r *usage.Reading, d types.DiskUsage) {
	r.Put(usage.DiskRead, uint64(d.ReadBytes))
	r.Put(usage.DiskWritten, uint64(d.WriteBytes))
}

func putNet(r *usage.Reading, n types.NetworkUsage) {
	r.Put(usage.NetReceived, uint64(n.ReceivedBytes))
	r.Put(usage.NetSent, uint64(n.SentBytes))
}
