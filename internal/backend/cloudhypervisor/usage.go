package cloudhypervisor

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// lastTimeout bounds the wait for a last reading of a VM that is to be ended.
const lastTimeout = 250 * time.Millisecond

// errFell says that the counters are another guest's.
var errFell = errors.New("the counters fell")

// meter keeps the counters of a machine.
type meter struct {
	turn chan struct{} // of capacity 1: who has a token in it may ask

	mu     sync.Mutex
	at     time.Time // of the last reading; zero before
	totals counters
	whole  bool // nothing can have come after it: the guest stood still, and its VMM was killed then
}

// take notes a reading. It returns false for one that is not what followed the last: a counter fell, as all do when the
// guest is built anew.
func (t *meter) take(now counters) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.fellFrom(t.totals) {
		return false
	}
	t.at, t.totals = time.Now(), now
	return true
}

// fellFrom says whether a sum is less than it was.
func (c counters) fellFrom(before counters) bool {
	for device, was := range before {
		now, there := c[device]
		for _, name := range sums {
			if old, known := was[name]; known && (!there || now[name] < old) {
				return true
			}
		}
	}
	return false
}

// sums are the counters that never fall while a guest runs; latencies do.
var sums = []string{
	"read_bytes", "write_bytes", "read_ops", "write_ops", "rx_bytes", "tx_bytes", "rx_frames", "tx_frames",
}

func (t *meter) complete() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.whole
}

// age is how long ago the last reading was; the greatest duration where there was none.
func (t *meter) age() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at.IsZero() {
		return math.MaxInt64
	}
	return time.Since(t.at)
}

// last says when the last reading was, for people.
func (t *meter) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at.IsZero() {
		return "there was none"
	}
	return time.Since(t.at).Round(time.Millisecond).String() + " ago"
}

// count reads the counters. Where they fell the guest is another one than was booted.
func (m *machine) count(ctx context.Context) error {
	select {
	case m.meter.turn <- struct{}{}:
		defer func() { <-m.meter.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	now, err := m.api.counters(ctx)
	if err != nil {
		return err
	}
	if !m.meter.take(now) {
		m.endGuest(func(s *status) { s.reset = true })
		return errFell
	}
	return nil
}

// lastReading stops the guest of a VMM that is about to be killed and reads its counters, if that is soon done.
func (m *machine) lastReading(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastTimeout)
	defer cancel()
	paused := m.api.pause(ctx) == nil || !m.now().running
	if m.count(ctx) == nil && paused {
		m.meter.mu.Lock()
		m.meter.whole = true
		m.meter.mu.Unlock()
	}
}

// Usage reads the counters of the process and of the taps, and Cloud Hypervisor's of the disks, at most one second old
// where it answers. Cloud Hypervisor itself knows neither CPU time nor memory; its counters of interfaces end with it.
//
// In the last word the CPU time is that of the cgroup where there is one and it is more. The disks' figures are there
// where Destroy had stopped the guest before it read them. They are unknown where Cloud Hypervisor ended with its guest:
// it takes its counters along, and says no last word.
func (m *machine) Usage(ctx context.Context) (types.Usage, error) {
	if m.died() {
		return m.lastWord(ctx)
	}
	if m.meter.age() > lookEvery && m.now().ran {
		limited, cancel := context.WithTimeout(ctx, lookTimeout)
		_ = m.count(limited) // what was read before stands
		cancel()
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
		return tally.Copy(m.now().used), nil
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
	u := types.Usage{At: time.Now(), CPUTime: m.home.finalCPU(tally.Clock(m.process)), Networks: m.home.private.Taps.Used()}
	switch s := m.now(); {
	case !s.started && !s.ran:
		u.Disks = tally.NoDisks(m.spec.Disks)
	case m.meter.complete():
		u.Disks = m.diskUsage()
	}
	return u
}

// Sources are the process and its taps.
func (m *machine) Sources() types.Sources {
	return types.Sources{PID: m.handle.Process.PID, Taps: m.home.private.Taps.Sources()}
}

// diskUsage is nil before the first reading.
func (m *machine) diskUsage() (disks map[string]types.DiskUsage) {
	m.meter.mu.Lock()
	defer m.meter.mu.Unlock()
	for i, d := range m.spec.Disks {
		if n, ok := m.meter.totals.of(diskID(i), "read_bytes", "write_bytes", "read_ops", "write_ops"); ok {
			if disks == nil {
				disks = map[string]types.DiskUsage{}
			}
			disks[d.ID] = types.DiskUsage{ReadBytes: n[0], WriteBytes: n[1], ReadOps: n[2], WriteOps: n[3]}
		}
	}
	return disks
}

// of returns counters of a device, if it has all of them and they are numbers that can be.
func (c counters) of(device string, names ...string) (values []int64, ok bool) {
	for _, name := range names {
		n, there := c[device][name]
		if !there || n > math.MaxInt64 {
			return nil, false
		}
		values = append(values, int64(n))
	}
	return values, true
}
