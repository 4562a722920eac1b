package firecracker

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Usage reads the counters of the process and of the taps, and what Firecracker's metrics said of the disks last: not
// longer ago than flushEvery where the guest runs. Firecracker itself knows neither CPU time nor memory. Its own counters
// of interfaces have a header of 12 bytes in each frame.
//
// In the last word the CPU time is that of the cgroup where there is one and it is more. The disks' figures are there
// where the metrics were whole to the end: Firecracker wrote them when its guest had ended, or before it was killed with
// its guest paused, and no line was lost. They are unknown where it was killed by somebody else, or crashed.
func (m *machine) Usage(ctx context.Context) (types.Usage, error) {
	if m.died() {
		return m.lastWord(ctx)
	}
	u := types.Usage{At: time.Now(), Networks: m.home.private.Taps.Used(), Disks: m.diskUsage()}
	tally.Process(&u, m.handle.Process.PID)
	if m.died() { // the pid may be another's
		return m.lastWord(ctx)
	}
	return u, nil
}

// lastWord is what the incarnation used in all. It waits for Exited.
func (m *machine) lastWord(ctx context.Context) (types.Usage, error) {
	select {
	case <-m.exited:
	case <-m.finished: // ended, or released
	case <-ctx.Done():
	}
	select {
	case <-m.exited:
		m.mu.Lock()
		defer m.mu.Unlock()
		return tally.Copy(m.used), nil
	default:
	}
	if ctx.Err() != nil {
		return types.Usage{}, m.unavailable(ctx, context.Cause(ctx))
	}
	return types.Usage{}, types.Errorf(types.KindUnavailable, "VM %s: %w", m.handle.VM, types.ErrGone)
}

// compare has the handle say how far the VMM's CPU clock is ahead of its cgroup: who reaps it has the cgroup alone.
func (m *machine) compare() {
	m.home.compare(m.handle.Process.PID)
	m.handle.Private = m.home.private.encode()
}

// total is what the incarnation used in all, after its end. Its cgroup and its taps are there still.
func (m *machine) total() types.Usage {
	return types.Usage{
		At: time.Now(), CPUTime: m.home.finalCPU(tally.Clock(m.process)),
		Networks: m.home.private.Taps.Used(), Disks: m.lastDisks(),
	}
}

func (m *machine) lastDisks() map[string]types.DiskUsage {
	m.mu.Lock()
	started := m.started
	m.mu.Unlock()
	if !started {
		return tally.NoDisks(m.spec.Disks)
	}
	// After a fault of its own Firecracker tries to write a last line, and says not whether it did.
	status, known := m.process.Status()
	if wrote := known && status.Exited() && status.ExitStatus() == 0; !wrote && !m.meter.flushed.Load() {
		return nil
	}
	if t := m.meter.collector.Totals(); !t.Ended || t.Partial || t.InGap || len(t.Gaps) > 0 {
		return nil
	}
	return m.diskUsage()
}

// Sources are the process and its taps. The disks' counters come by themselves.
func (m *machine) Sources() types.Sources {
	return types.Sources{PID: m.handle.Process.PID, Taps: m.home.private.Taps.Sources(), DisksAtHand: true}
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
