package firecracker

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// Usage reads the counters of the process and of the taps, and what Firecracker's metrics said of the disks last: not
// longer ago than flushEvery where the guest runs. Firecracker itself knows neither CPU time nor memory.
func (m *machine) Usage(context.Context) (types.Usage, error) {
	u := types.Usage{At: time.Now(), Networks: m.networkUsage(), Disks: m.diskUsage()}
	pid := m.handle.Process.PID
	if cpu, err := vmmprocess.CPUTime(pid); err == nil {
		u.CPUTime = &cpu
	}
	if resident, err := vmmprocess.ResidentMemory(pid); err == nil {
		u.MemoryBytes = &resident
	}
	if m.died() { // the pid may be another's
		return types.Usage{}, types.Errorf(types.KindUnavailable, "VM %s: %w", m.handle.VM, types.ErrGone)
	}
	return u, nil
}

// Sources are the process and its taps. The disks' counters come by themselves.
func (m *machine) Sources() types.Sources {
	return types.Sources{PID: m.handle.Process.PID, Taps: types.TapSources(m.spec.Networks, m.home.private.Taps), DisksAtHand: true}
}

// diskUsage is nil before the first line of the metrics.
func (m *machine) diskUsage() map[string]types.DiskUsage {
	totals := m.meter.collector.Totals()
	var all map[string]types.DiskUsage
	for i, d := range m.spec.Disks {
		t, ok := totals.Drives[driveID(i)]
		if !ok {
			continue
		}
		if all == nil {
			all = map[string]types.DiskUsage{}
		}
		all[d.ID] = types.DiskUsage{
			ReadBytes: int64(t.ReadBytes), WriteBytes: int64(t.WriteBytes), ReadOps: int64(t.ReadCount), WriteOps: int64(t.WriteCount),
		}
	}
	return all
}

// networkUsage is what went through the taps since this Firecracker began. A tap whose counters fell was made anew, and
// is left out. Firecracker's own counters have a header of 12 bytes in each frame.
func (m *machine) networkUsage() map[string]types.NetworkUsage {
	var all map[string]types.NetworkUsage
	for _, n := range m.spec.Networks {
		from, known := m.home.private.Taps[n.ID]
		now, err := tap.Read(n.Tap)
		if !known || err != nil {
			continue
		}
		since, ok := now.Since(tap.Counters(from))
		if !ok {
			continue
		}
		if all == nil {
			all = map[string]types.NetworkUsage{}
		}
		all[n.ID] = types.NetworkUsage(since)
	}
	return all
}
