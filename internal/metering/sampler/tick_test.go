package sampler

import (
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

const tick = 100 * time.Millisecond

// simulated is a rig whose clock the test sets. There is no process: what the VM used is asked for.
func simulated(t *testing.T, dir string, mono int64) (*rig, *clock) {
	t.Helper()
	c := newClock(mono)
	r := newRig(t, dir, func(cfg *Config) { cfg.Clock, cfg.Interval = c, tick })
	eventually(t, "Run", c.ticking)
	return r, c
}

// bare is a VM that has no process and is asked for everything.
func bare(t *testing.T, id types.VMID) *machine {
	return newMachine(id, &process{id: types.ProcessIdentity{StartTicks: 7, BootID: bootID(t)}})
}

// A tick that comes late has its true time, and those that did not come are missed: in the log, in the totals, and in
// what the sampler says of itself.
func TestLateAndMissedTicks(t *testing.T) {
	r, c := simulated(t, t.TempDir(), 1_000_000_000_000)
	r.begin(bare(t, "a"), noDisk)
	begun := c.Now().Mono
	r.pass(c, tick)           // 0
	r.pass(c, tick+30*1e6)    // 1, 30 ms late
	r.pass(c, tick-30*1e6)    // 2, in time
	r.pass(c, 3*tick+50*1e6)  // 3 and 4 are missed; 5 is 50 ms late
	r.pass(c, 10*tick-50*1e6) // 9 are missed
	r.End("a", types.Usage{}, "ended")
	status := r.Status()
	r.stop()
	l := replay(t, r.dir).of("a")
	var got [][2]int64
	for _, s := range l.samples {
		got = append(got, [2]int64{int64(s.Seq), (s.At.Mono - begun) / 1e6})
	}
	want := [][2]int64{{0, 100}, {1, 230}, {2, 300}, {5, 650}, {15, 1600}}
	if len(got) != len(want) {
		t.Fatalf("ticks %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("tick %d is %v, want %v", i, got[i], want[i])
		}
	}
	if gaps := of(l.end.Final.Amount, usage.GapTicks); gaps != 11 || status.Missed != 11 {
		t.Errorf("%d gaps in the totals, %d missed in the status, want 11", gaps, status.Missed)
	}
	if status.Late != 2 || status.MaxLateness != 50*time.Millisecond {
		t.Errorf("%d late, at most %v", status.Late, status.MaxLateness)
	}
	if l.end.Last.Seq != 16 {
		t.Errorf("the last tick is %d", l.end.Last.Seq)
	}
}

// Time in each state is what the VM was in it, to the nanosecond.
func TestStatesAreExact(t *testing.T) {
	r, c := simulated(t, t.TempDir(), 5e12)
	if err := r.Begin(bare(t, "a").handle, noDisk, "tenant"); err != nil {
		t.Fatal(err)
	}
	r.pass(c, tick) // memory is held from the first tick on
	c.pass(7)
	r.Enter("a", usage.Booting)
	c.pass(11)
	r.Enter("a", usage.Running)
	r.pass(c, 2*tick)
	c.pass(13)
	r.Enter("a", usage.Paused)
	c.pass(17)
	r.Enter("a", usage.Running)
	r.pass(c, tick)
	c.pass(19)
	r.End("a", types.Usage{}, "ended")
	r.stop()
	a := replay(t, r.dir).of("a").end.Final.Amount
	running := uint64(3*tick + 13 + 19)
	if of(a, usage.RunningNs) != running || of(a, usage.PausedNs) != 17 || of(a, usage.OtherNs) != uint64(tick)+18 {
		t.Errorf("running %d, paused %d, other %d", of(a, usage.RunningNs), of(a, usage.PausedNs), of(a, usage.OtherNs))
	}
	if got, want := a.Of[usage.Quantity(usage.Allocated)], usage.Mul(uint64(noDisk.Memory.SizeBytes), running+17); got != want {
		t.Errorf("allocated memory %s byte·ns, want %s", got, want)
	}
}

// A wall clock that is set, and a host that was suspended, are told once and change no duration.
func TestClocksThatJump(t *testing.T) {
	r, c := simulated(t, t.TempDir(), 5e12)
	for _, id := range []types.VMID{"a", "b"} {
		r.begin(bare(t, id), noDisk)
	}
	r.pass(c, tick)
	c.set(func() { c.now.Wall -= int64(time.Hour) })
	r.pass(c, tick)
	c.set(func() { c.asleep += int64(time.Minute) })
	r.pass(c, tick)
	r.pass(c, tick)
	r.End("a", types.Usage{}, "ended")
	s := r.Status()
	r.stop()
	if s.WallSteps != 1 || s.Suspends != 1 || s.Quarantined != 0 {
		t.Errorf("%+v", s)
	}
	for _, said := range []string{"wall clock was set", "was suspended"} {
		if n := strings.Count(r.logs.String(), said); n != 1 {
			t.Errorf("%q was logged %d times", said, n)
		}
	}
	if got := of(replay(t, r.dir).of("a").end.Final.Amount, usage.RunningNs); got != uint64(4*tick) {
		t.Errorf("running %v", time.Duration(got))
	}
}

// What the VMM counts is UNKNOWN between its answers, never what it was; a counter that falls is UNKNOWN and found, and
// the totals go on from where it was.
func TestWhatIsAskedForIsUnknownBetween(t *testing.T) {
	r, c := simulated(t, t.TempDir(), 5e12)
	m := bare(t, "a")
	m.say(func(u *types.Usage) { u.Disks = disks(100, 10) })
	r.begin(m, oneDisk)
	answered := func(n int) {
		t.Helper()
		r.pass(c, tick)
		eventually(t, "an answer", func() bool { return r.Status().Asks == uint64(n) && r.idle() })
	}
	answered(1)
	for range 9 {
		answered(1) // once a second
	}
	m.say(func(u *types.Usage) { u.Disks = disks(90, 20) })
	answered(2)
	r.pass(c, tick)
	r.End("a", types.Usage{Disks: disks(300, 30)}, "ended")
	if s := r.Status(); s.Quarantined != 1 {
		t.Errorf("%d values were set aside", s.Quarantined)
	}
	r.stop()
	l := replay(t, r.dir).of("a")
	var seen []uint64
	for _, s := range l.samples {
		if v, ok := s.Reading.Value(usage.DiskWritten); ok {
			seen = append(seen, s.Seq, v)
		}
		if v, ok := s.Reading.Value(usage.DiskRead); ok && v != 100 {
			t.Errorf("tick %d: %d bytes read", s.Seq, v)
		}
	}
	if want := []uint64{1, 10, 11, 20}; len(seen) != 4 || seen[0] != want[0] || seen[1] != want[1] || seen[2] != want[2] || seen[3] != want[3] {
		t.Errorf("written at ticks: %v, want %v", seen, want)
	}
	if a := l.end.Final.Amount; of(a, usage.Quantity(usage.DiskRead)) != 300 || of(a, usage.Quantity(usage.DiskWritten)) != 30 {
		t.Errorf("read %d, written %d", of(a, usage.Quantity(usage.DiskRead)), of(a, usage.Quantity(usage.DiskWritten)))
	}
	if n := strings.Count(r.logs.String(), "not believed"); n != 1 {
		t.Errorf("logged %d times: %s", n, r.logs)
	}
}

// idle says that no question is under way.
func (r *rig) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lives {
		l.source.mu.Lock()
		under := l.source.ask.under
		l.source.mu.Unlock()
		if under {
			return false
		}
	}
	return true
}
