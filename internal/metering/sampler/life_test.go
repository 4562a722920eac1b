package sampler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/proc"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// A metald that goes and comes again loses nothing of what counters say; time in a state that changed meanwhile is
// nobody's.
func TestAnotherMetaldGoesOn(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	same, changed := start(t, burner), start(t, burner)
	a, b := newMachine("a", same), newMachine("b", changed)
	for _, m := range []*machine{a, b} {
		r.begin(m, noDisk)
	}
	same.burn()
	r.ticks(3)
	r.stop()

	same.burn() // nobody looks
	changed.burn()
	before := replay(t, dir)
	r = newRig(t, dir, nil)
	if s := r.Status(); s.Waiting != 2 {
		t.Errorf("%d lives wait", s.Waiting)
	}
	for m, state := range map[*machine]usage.State{a: usage.Running, b: usage.Paused} {
		if err := r.Adopt(m, noDisk, "tenant", state); err != nil {
			t.Fatal(err)
		}
	}
	r.Settle(nil, "host-lost")
	r.ticks(3)
	if s := r.Status(); s.Lives != 2 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	same.burn()
	cpu := map[types.VMID]time.Duration{"a": same.end(), "b": changed.end()}
	for id, used := range cpu {
		r.End(id, types.Usage{CPUTime: &used}, types.ReasonForced)
	}
	r.stop()

	h := replay(t, dir)
	if len(h.lives) != 2 {
		t.Errorf("%d lives", len(h.lives))
	}
	for id, used := range cpu {
		l := h.of(id)
		if got := of(l.end.Final.Amount, usage.Quantity(usage.CPU)); got != uint64(used) {
			t.Errorf("%s: %d ns of CPU, the kernel says %d", id, got, used)
		}
		if l.end.Final.Of[usage.GapTicks].IsZero() {
			t.Errorf("%s has no gap", id)
		}
		if len(l.found) > 0 {
			t.Errorf("%s: %v", id, l.found)
		}
	}
	was := before.of("a").Meter.Totals.At.Mono
	if got := of(h.of("a").end.Final.Amount, usage.UnobservedNs); got != 0 {
		t.Errorf("a ran before and after, and for %d ns nobody knows", got)
	}
	if got := of(h.of("b").end.Final.Amount, usage.UnobservedNs); got == 0 {
		t.Errorf("b was paused after %d, and nobody saw when", was)
	}
}

// What is not adopted is closed where it was last seen, once all are known; what may be alive waits on. A life of
// another boot is over, whoever wants to keep it.
func TestWhatIsNotAdoptedIsClosed(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	var machines []*machine
	for i := range 4 {
		m := newMachine(types.VMID(fmt.Sprintf("vm-%d", i)), start(t, idle))
		machines = append(machines, m)
		r.begin(m, noDisk)
	}
	r.ticks(2)
	r.stop()
	before := replay(t, dir)

	r = newRig(t, dir, func(cfg *Config) {
		for i := range cfg.Open { // the host was started anew after this one
			if cfg.Open[i].Life.Incarnation.VM == "vm-3" {
				cfg.Open[i].Life.Incarnation.Boot = "another boot"
			}
		}
	})
	cpu := 50 * time.Millisecond
	r.Lost(machines[1].handle, types.Usage{}, types.ReasonUnobserved)
	r.Lost(machines[2].handle, types.Usage{CPUTime: &cpu}, types.ReasonUnobserved)
	r.Settle(func(i usage.Incarnation) bool { return i.VM == "vm-0" || i.VM == "vm-3" }, "host-lost")
	r.ticks(2)
	if s := r.Status(); s.Lives != 0 || s.Waiting != 1 || s.PendingEnds != 0 {
		t.Errorf("%+v", s)
	}
	r.stop()

	h := replay(t, dir)
	for id, reason := range map[types.VMID]string{"vm-1": types.ReasonUnobserved, "vm-2": types.ReasonUnobserved, "vm-3": "host-lost"} {
		l, was := h.of(id), before.of(id)
		if l.end == nil || l.end.Reason != reason {
			t.Errorf("%s: end %+v", id, l.end)
			continue
		}
		if id == "vm-2" { // what was read after its end counts
			if got := of(l.end.Final.Amount, usage.Quantity(usage.CPU)); got != uint64(cpu) {
				t.Errorf("%s: %d ns of CPU", id, got)
			}
			continue
		}
		if l.end.Last.At != was.Meter.Totals.At || l.end.Last.Seq != was.Meter.Totals.Next {
			t.Errorf("%s is closed at %+v, it was last seen at %+v", id, l.end.Last, was.Meter.Totals.At)
		}
		if !l.end.Final.Incomplete.Has(usage.CPU) {
			t.Errorf("%s: nobody read its CPU at the end, and it is not said to be incomplete", id)
		}
	}
	if h.of("vm-0").end != nil {
		t.Error("vm-0 was to be kept")
	}
}

// A VMM that no log knows is metered from when it is taken over.
func TestAdoptionOfAnUnknownVMM(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	p := start(t, burner)
	p.burn()
	m := newMachine("a", p)
	had := p.cpu()
	m.say(func(u *types.Usage) { u.CPUTime, u.Disks = &had, disks(5000, 600) })
	if err := r.Adopt(m, oneDisk, "tenant", usage.Running); err != nil {
		t.Fatal(err)
	}
	p.burn()
	r.ticks(3)
	cpu := p.end()
	r.End("a", types.Usage{CPUTime: &cpu, Disks: disks(5100, 640)}, "ended")
	r.stop()
	a := replay(t, r.dir).of("a").end.Final.Amount
	if got := of(a, usage.Quantity(usage.CPU)); got != uint64(cpu-had) {
		t.Errorf("%d ns of CPU, and the kernel counts %d since", got, cpu-had)
	}
	if of(a, usage.Quantity(usage.DiskRead)) != 100 || of(a, usage.Quantity(usage.DiskWritten)) != 40 {
		t.Errorf("%+v", a)
	}
}

func (p *process) cpu() time.Duration {
	p.tb.Helper()
	m, err := proc.Open(p.id.PID)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer m.Close()
	cpu, err := m.CPU()
	if err != nil {
		p.tb.Fatal(err)
	}
	return cpu
}

// Between the end of a process and End, its CPU time is UNKNOWN and it holds no memory. The last word is exact.
func TestAProcessThatDiesBetweenTicks(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	p := start(t, burner)
	m := newMachine("a", p)
	r.begin(m, noDisk)
	p.burn()
	r.ticks(3)
	cpu := p.end()
	r.ticks(60) // a full read is among them
	r.End("a", types.Usage{CPUTime: &cpu}, types.ReasonCrashed)
	r.stop()
	l := replay(t, r.dir).of("a")
	last := l.samples[len(l.samples)-1].Reading
	if v, ok := last.Value(usage.CPU); ok {
		t.Errorf("CPU %d of a process that is gone", v)
	}
	if v, ok := last.Value(usage.Resident); !ok || v != 0 {
		t.Errorf("memory %d %t", v, ok)
	}
	if got := of(l.end.Final.Amount, usage.Quantity(usage.CPU)); got != uint64(cpu) || l.end.Final.Incomplete != 0 {
		t.Errorf("%d ns of CPU, the kernel says %d; incomplete: %s", got, cpu, l.end.Final.Incomplete)
	}
}

// The next process with the pid is not the VMM, and its clock is not read for it.
func TestAReusedPid(t *testing.T) {
	const next = "/proc/sys/kernel/ns_last_pid"
	if _, err := os.Stat(next); err != nil {
		t.Skip("the kernel cannot be told which pid comes next: no CONFIG_CHECKPOINT_RESTORE")
	}
	r := newRig(t, t.TempDir(), nil)
	p := start(t, burner)
	r.begin(newMachine("a", p), noDisk)
	p.burn()
	r.ticks(3)
	cpu := p.end()
	other := reuse(t, next, p.id)
	other.burn()
	r.ticks(60)
	stranger := newMachine("b", other)
	stranger.handle.Process.StartTicks = p.id.StartTicks // a handle of the one before
	if err := r.Begin(stranger.handle, noDisk, "tenant"); err != nil {
		t.Fatal(err)
	}
	r.Attach(stranger)
	r.ticks(60)
	r.End("a", types.Usage{CPUTime: &cpu}, "ended")
	r.stop()
	h := replay(t, r.dir)
	for _, s := range h.of("a").samples {
		if v, ok := s.Reading.Value(usage.CPU); ok && v > uint64(cpu) {
			t.Errorf("tick %d: CPU %d, and the process had %d in all", s.Seq, v, cpu)
		}
	}
	if got := of(h.of("a").end.Final.Amount, usage.Quantity(usage.CPU)); got != uint64(cpu) {
		t.Errorf("%d ns of CPU, the kernel says %d", got, cpu)
	}
	for _, s := range h.of("b").samples {
		if v, ok := s.Reading.Value(usage.CPU); ok {
			t.Errorf("tick %d: the CPU time %d of a stranger", s.Seq, v)
		}
	}
}

// reuse starts a process with a pid that another one had.
func reuse(t *testing.T, next string, id types.ProcessIdentity) *process {
	t.Helper()
	for range 200 { // others on this machine take pids as well
		if err := os.WriteFile(next, []byte(strconv.Itoa(id.PID-1)), 0); err != nil {
			t.Skipf("the kernel cannot be told which pid comes next: %v", err)
		}
		p := start(t, burner)
		if p.id.PID == id.PID && p.id.StartTicks != id.StartTicks {
			return p
		}
		p.end()
	}
	t.Skip("too many processes are started on this machine to reuse a pid")
	return nil
}

// balky is a log that refuses on demand.
type balky struct {
	*wal.Log
	mu     sync.Mutex
	err    error
	finals bool // are refused, too
}

func (b *balky) Append(r wal.Record) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil && (!r.Final || b.finals) {
		return 0, b.err
	}
	return b.Log.Append(r)
}

func (b *balky) refuse(err error, finals bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err, b.finals = err, finals
}

// A log that takes nothing costs resolution: what was used is in what it takes next. Nothing begins meanwhile, and what
// ends is written as soon as it can be.
func TestALogThatTakesNothing(t *testing.T) {
	b := &balky{}
	r := prepareRig(t, t.TempDir(), nil, func(s *Sampler) {
		b.Log = s.cfg.Log.(*wal.Log)
		s.cfg.Log = b
	})
	p, q := start(t, burner), start(t, burner)
	r.begin(newMachine("a", p), noDisk)
	r.begin(newMachine("b", q), noDisk)
	r.ticks(2)
	b.refuse(wal.ErrBehind, true)
	r.Enter("a", usage.Paused)
	p.burn()
	refused := r.Status().Refused
	r.ticks(5)
	if got := r.Status().Refused - refused; got < 4 {
		t.Errorf("%d ticks of 5 were refused", got)
	}
	if err := r.Begin(newMachine("c", start(t, idle)).handle, noDisk, "tenant"); !errors.Is(err, wal.ErrBehind) {
		t.Errorf("begin: %v", err)
	}
	if err := r.Ready(context.Background(), "c"); err == nil {
		t.Error("a VM is ready of which nothing is in the log")
	}
	cpuB := q.end()
	r.End("b", types.Usage{CPUTime: &cpuB}, "ended")
	if s := r.Status(); s.PendingEnds != 1 {
		t.Errorf("%d ends wait", s.PendingEnds)
	}
	b.refuse(nil, false)
	eventually(t, "the end to be written", func() bool { return r.Status().PendingEnds == 0 })
	p.burn()
	r.ticks(3)
	b.refuse(wal.ErrBehind, false)
	cpuA := p.end()
	r.End("a", types.Usage{CPUTime: &cpuA}, "ended") // there is room for it
	if s := r.Status(); s.PendingEnds != 0 {
		t.Errorf("%d ends wait", s.PendingEnds)
	}
	r.stop()
	h := replay(t, r.dir)
	if len(h.lives) != 2 {
		t.Errorf("%d lives", len(h.lives))
	}
	for id, cpu := range map[types.VMID]time.Duration{"a": cpuA, "b": cpuB} {
		l := h.of(id)
		if l.end == nil {
			t.Fatalf("%s has no end", id)
		}
		if got := of(l.end.Final.Amount, usage.Quantity(usage.CPU)); got != uint64(cpu) {
			t.Errorf("%s: %d ns of CPU, the kernel says %d", id, got, cpu)
		}
	}
	if h.of("a").end.Final.Of[usage.PausedNs].IsZero() {
		t.Error("a was paused while the log took nothing")
	}
}

// After its end a sampler is told things and does nothing.
func TestAfterItsEndNothingHappens(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	m := newMachine("a", start(t, idle))
	r.begin(m, noDisk)
	r.stop()
	r.Enter("a", usage.Paused)
	r.Attach(m)
	r.Lost(m.handle, types.Usage{}, "late")
	r.End("a", types.Usage{}, "late")
	r.Settle(nil, "late")
	if err := r.Begin(newMachine("b", start(t, idle)).handle, noDisk, "tenant"); err == nil {
		t.Error("a life began")
	}
	if err := r.Adopt(m, noDisk, "tenant", usage.Running); err == nil {
		t.Error("a life goes on")
	}
	if err := r.Ready(context.Background(), "a"); err == nil {
		t.Error("a VM is ready")
	}
	if len(r.Accounts()) != 1 {
		t.Error("the account is gone")
	}
	l := replay(t, r.dir).of("a")
	if l.end != nil || len(l.enters) != 2 {
		t.Errorf("the log has %+v", l)
	}
}
