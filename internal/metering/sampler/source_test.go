package sampler

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/proc"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// VMMs that do not answer keep nobody else from being read, and no more are asked at once than there are workers.
func TestMuteVMMs(t *testing.T) {
	r := newRig(t, t.TempDir(), func(cfg *Config) { cfg.Workers = 2 })
	never, began := make(chan struct{}), time.Now()
	var mute []*machine
	for i := range 20 {
		m := newMachine(types.VMID(fmt.Sprintf("mute-%d", i)), start(t, idle))
		m.block = never
		mute = append(mute, m)
		r.begin(m, oneDisk)
	}
	p := start(t, burner)
	r.begin(newMachine("a", p), noDisk)
	p.burn()
	seen := p.cpu()
	eventually(t, "what another VM used", func() bool {
		return of(r.account("a").Meter.Totals.Amount, usage.Quantity(usage.CPU)) >= uint64(seen)
	})
	r.ticks(10)
	asked := 0
	for _, m := range mute {
		asked += m.asked()
		if r.account(m.handle.VM).Meter.Totals.Measured.Has(usage.DiskRead) {
			t.Errorf("%s has disks", m.handle.VM)
		}
	}
	if most := 2 * int(time.Since(began)/askTimeout+1); asked == 0 || asked > most {
		t.Errorf("%d questions, and at most %d can have been under way", asked, most)
	}
	close(never)
}

// While a VMM runs nothing it is not asked again: the answer stays true.
func TestAnIdleVMMIsNotAsked(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	m := newMachine("a", start(t, idle))
	m.say(func(u *types.Usage) { u.Disks = disks(10, 20) })
	r.begin(m, oneDisk)
	r.ticks(3)
	eventually(t, "the answer", func() bool { return r.account("a").Meter.Totals.Measured.Has(usage.DiskRead) })
	r.ticks(110) // more than a second
	if n := m.asked(); n > 2 {
		t.Errorf("asked %d times", n)
	}
	r.stop()
	l := replay(t, r.dir).of("a")
	for _, s := range l.samples[10:] {
		if v, ok := s.Reading.Value(usage.DiskWritten); !ok || v != 20 {
			t.Errorf("tick %d: %s", s.Seq, s.Reading)
		}
	}
}

// A VMM that runs is asked once a second.
func TestABusyVMMIsAskedOnceASecond(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	p := start(t, "echo up; while :; do :; done")
	m := newMachine("a", p)
	m.say(func(u *types.Usage) { u.Disks = disks(10, 20) })
	r.begin(m, oneDisk)
	began := time.Now()
	eventually(t, "three questions", func() bool { return m.asked() >= 3 })
	if took := time.Since(began); took < 1500*time.Millisecond {
		t.Errorf("three questions in %v", took)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// What a tap had before the VMM began is not the VM's; a tap that is not there is UNKNOWN until it is, and one that was
// made anew has fallen counters.
func TestTaps(t *testing.T) {
	d := &devices{}
	r := prepareRig(t, t.TempDir(), nil, func(s *Sampler) { s.sweep.dumper = d })
	d.set("t0", 7, tap.Counters{ReceivedBytes: 1000, SentBytes: 2000})
	m := newMachine("a", start(t, idle))
	m.sources.Taps = []types.TapSource{{Name: "t0", From: types.NetworkUsage{ReceivedBytes: 900, SentBytes: 1900}}, {Name: "t1"}}
	spec := noDisk
	spec.Networks = []types.Network{{ID: "n0", Tap: "t0"}, {ID: "n1", Tap: "t1"}}
	r.begin(m, spec)
	r.ticks(60)
	received := func() uint64 { return of(r.account("a").Meter.Totals.Amount, usage.Quantity(usage.NetReceived)) }
	if r.account("a").Meter.Totals.Measured.Has(usage.NetReceived) {
		t.Error("a sum without one of the taps")
	}
	d.set("t1", 8, tap.Counters{ReceivedBytes: 5, SentBytes: 6})
	eventually(t, "both taps", func() bool { return received() == 105 })
	d.set("t1", 9, tap.Counters{ReceivedBytes: 1, SentBytes: 1})
	eventually(t, "a finding", func() bool { return r.Status().Quarantined > 0 })
	if received() != 105 {
		t.Errorf("%d bytes", received())
	}
	d.set("t1", 9, tap.Counters{ReceivedBytes: 50, SentBytes: 60})
	eventually(t, "more than before", func() bool { return received() == 150 })
}

// devices is a host's network devices.
type devices struct {
	mu  sync.Mutex
	all map[string]device
}

type device struct {
	index int
	tap.Counters
}

func (d *devices) set(name string, index int, c tap.Counters) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all = map[string]device{}
	}
	d.all[name] = device{index, c}
}

func (d *devices) Index(name string) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if one, ok := d.all[name]; ok {
		return one.index, nil
	}
	return 0, tap.ErrAbsent
}

func (d *devices) Dump(each func(int, tap.Counters)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.all {
		each(one.index, one.Counters)
	}
	return nil
}

func (d *devices) Close() {}

// A real tap: what the guest sent is what was sent.
func TestARealTap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip command; `make packages` installs it")
	}
	var r *rig
	done := make(chan error, 1)
	go func() { // in a namespace that ends with the thread
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			for _, args := range []string{"tuntap add s0 mode tap", "link set s0 up"} {
				if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %s: %w: %s", args, err, out)
				}
			}
			r = prepareRig(t, t.TempDir(), nil, func(s *Sampler) { s.sweep.begin(s.log) })
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Skipf("there can be no network namespace here: %v", err)
	}
	m := newMachine("a", start(t, idle))
	m.sources.Taps = []types.TapSource{{Name: "s0"}}
	spec := noDisk
	spec.Networks = []types.Network{{ID: "n0", Tap: "s0"}}
	r.begin(m, spec)
	eventually(t, "the tap's counters", func() bool { return r.account("a").Meter.Totals.Measured.Has(usage.NetSent) })
}

// nowhere is a log that takes everything.
type nowhere struct{ seq uint64 }

func (n *nowhere) Append(wal.Record) (uint64, error)  { n.seq++; return n.seq, nil }
func (n *nowhere) NeedsKeyframe() bool                { return false }
func (n *nowhere) Wait(context.Context, uint64) error { return nil }

var _ Log = (*wal.Log)(nil)

// A tick allocates nothing, whatever moved.
func TestATickAllocatesNothing(t *testing.T) {
	c := newClock(1e12)
	s, err := New(Config{Log: &nowhere{}, Host: "host", Boot: bootID(t), Clock: c, Keyframes: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d := &devices{}
	s.sweep.dumper = d
	spec := oneDisk
	spec.Networks = []types.Network{{ID: "n0", Tap: "t0"}}
	for i := range 20 {
		m := &counting{*newMachine(types.VMID(fmt.Sprintf("vm-%d", i)), &process{})}
		m.handle.Process = types.ProcessIdentity{PID: os.Getpid(), BootID: bootID(t), StartTicks: startTicks(t, os.Getpid())}
		m.sources = types.Sources{PID: os.Getpid(), Taps: []types.TapSource{{Name: fmt.Sprint("t", i)}}, DisksAtHand: true}
		d.set(fmt.Sprint("t", i), i+1, tap.Counters{})
		if err := s.Begin(m.handle, spec, "tenant"); err != nil {
			t.Fatal(err)
		}
		s.Attach(m)
	}
	defer s.finish()
	one := func() {
		c.pass(100 * time.Millisecond)
		s.tick(c.Now().Mono, 0)
	}
	c.pass(time.Hour) // which is more than this process can have used of a CPU
	for range 20 {
		one()
	}
	if n := testing.AllocsPerRun(100, func() { s.tick(c.Now().Mono, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := s.Status(); got.Ticks < 100 || got.Refused > 0 {
		t.Errorf("%+v", got)
	}
	if a := s.Accounts()[0].Meter.Totals; a.Measured != usage.All {
		t.Errorf("only %s were measured", a.Measured)
	}
}

// Fifty VMs come and go, are paused and asked of, all at once; and the log has every life whole.
func TestFiftyVMsChurn(t *testing.T) {
	r := newRig(t, t.TempDir(), func(cfg *Config) { cfg.Interval = 5 * time.Millisecond })
	var all sync.WaitGroup
	rounds := 4
	want := make([][]time.Duration, 50)
	for i := range want {
		all.Go(func() {
			id := types.VMID(fmt.Sprintf("vm-%d", i))
			for range rounds {
				p := start(t, burner)
				m := newMachine(id, p)
				m.say(func(u *types.Usage) { u.Disks = disks(1, 2) })
				if err := r.Begin(m.handle, oneDisk, "tenant"); err != nil {
					t.Error(err)
					return
				}
				r.Attach(m)
				r.Enter(id, usage.Running)
				p.burn()
				r.Enter(id, usage.Paused)
				_, _ = r.Accounts(), r.Status()
				r.Enter(id, usage.Running)
				cpu := p.end()
				r.End(id, types.Usage{CPUTime: &cpu, Disks: disks(3, 4)}, "ended")
				want[i] = append(want[i], cpu)
			}
		})
	}
	all.Wait()
	r.stop()
	h := replay(t, r.dir)
	if len(h.lives) != 50*rounds {
		t.Fatalf("%d lives", len(h.lives))
	}
	sums := map[string]uint64{}
	for _, l := range h.lives {
		if l.end == nil {
			t.Fatalf("%s has no end", l.Life.Incarnation.VM)
		}
		sums[l.Life.Incarnation.VM] += of(l.end.Final.Amount, usage.Quantity(usage.CPU))
		if of(l.end.Final.Amount, usage.Quantity(usage.DiskRead)) != 3 {
			t.Errorf("%+v", l.end.Final)
		}
	}
	for i, cpus := range want {
		var sum time.Duration
		for _, cpu := range cpus {
			sum += cpu
		}
		if got := sums[fmt.Sprintf("vm-%d", i)]; got != uint64(sum) {
			t.Errorf("vm-%d: %d ns of CPU, the kernel says %d", i, got, sum)
		}
	}
}

var _ record.Sink = (*history)(nil)

func startTicks(t *testing.T, pid int) uint64 {
	t.Helper()
	ticks, err := proc.StartTicks(pid)
	if err != nil {
		t.Fatal(err)
	}
	return ticks
}
