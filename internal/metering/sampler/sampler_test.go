package sampler

import (
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// What the log says at the end is what the host's own counters say, to the nanosecond and the byte.
func TestTotalsAreTheHostsOwn(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	p := start(t, burner)
	m := newMachine("a", p)
	m.say(func(u *types.Usage) { u.Disks = disks(0, 0) })
	r.begin(m, oneDisk)
	for i := range int64(5) {
		p.burn()
		m.say(func(u *types.Usage) { u.Disks = disks(1000*i, 7*i) })
		r.ticks(3)
	}
	r.Enter("a", usage.Paused)
	r.ticks(3)
	r.Enter("a", usage.Running)
	p.burn()
	cpu := p.end()
	r.End("a", types.Usage{CPUTime: &cpu, Disks: disks(123456, 789)}, types.ReasonGuestShutdown)
	if got := r.Accounts(); len(got) != 0 {
		t.Errorf("%d accounts are open", len(got))
	}
	r.stop()

	l := replay(t, r.dir).of("a")
	if l.end == nil || l.end.Reason != types.ReasonGuestShutdown {
		t.Fatalf("end %+v", l.end)
	}
	a := l.end.Final.Amount
	if got := time.Duration(of(a, usage.Quantity(usage.CPU))); got != cpu {
		t.Errorf("CPU %v, the kernel says %v", got, cpu)
	}
	if cpu < 10*time.Millisecond {
		t.Errorf("the burner used only %v", cpu)
	}
	if of(a, usage.Quantity(usage.DiskRead)) != 123456 || of(a, usage.Quantity(usage.DiskWritten)) != 789 {
		t.Errorf("disks %+v", a)
	}
	if a.Incomplete&usage.AllCounters != 0 {
		t.Errorf("%s are incomplete", a.Incomplete)
	}
	var sum uint64
	for _, q := range []usage.Quantity{usage.RunningNs, usage.PausedNs, usage.OtherNs} {
		sum += of(a, q)
	}
	if life := uint64(l.end.Last.At.Mono - l.Life.Start.Mono); sum != life || of(a, usage.PausedNs) == 0 {
		t.Errorf("states %d ns of a life of %d", sum, life)
	}
	if len(l.found) > 0 {
		t.Errorf("findings %v", l.found)
	}
}
