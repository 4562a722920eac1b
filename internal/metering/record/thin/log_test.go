package thin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const interval = 100_000_000

// host writes what its VMs use into a log, as a sampler does, and remembers it.
type host struct {
	t      testing.TB
	rand   *rand.Rand
	log    *wal.Log
	enc    record.Encoder
	at     usage.Time
	epoch  uint64
	values map[uint64]*usage.Reading // of those that live
	buf    []byte

	samples map[key]usage.Sample
	ends    map[uint64]usage.End
}

type key struct{ epoch, seq uint64 }

func newHost(t testing.TB) *host {
	return &host{
		t: t, rand: rand.New(rand.NewPCG(1, 2)), at: usage.Time{Mono: 1e12, Wall: 18e17}, values: map[uint64]*usage.Reading{},
		samples: map[key]usage.Sample{}, ends: map[uint64]usage.End{},
	}
}

// run opens the log, does what is asked with it, and has it durable in the end.
func (h *host) run(dir string, opt wal.Options, do func(ctx context.Context)) {
	h.t.Helper()
	log, err := wal.Open(dir, opt)
	if err != nil {
		h.t.Fatal(err)
	}
	h.log = log
	ctx, stop := context.WithTimeout(h.t.Context(), time.Minute)
	defer stop()
	ran, compacted := make(chan error, 1), make(chan error, 1)
	go func() { ran <- log.Run(ctx) }()
	go func() { compacted <- log.Compact(ctx) }()
	do(ctx)
	if err := log.Wait(ctx, log.Status().Next-1); err != nil {
		h.t.Fatal(err)
	}
	stop()
	if err := errors.Join(<-ran, <-compacted, log.Close()); err != nil {
		h.t.Fatal(err)
	}
}

// append writes one record, behind a keyframe where the log wants one. make is called behind it: what it makes is coded
// against it.
func (h *host) append(typ byte, make func(dst []byte) []byte) {
	if h.log.NeedsKeyframe() {
		h.put(record.TypeKeyframe, h.enc.Keyframe(h.buf[:0], h.at))
	}
	h.put(typ, make(h.buf[:0]))
}

func (h *host) put(typ byte, body []byte) {
	h.buf = body
	for range 1000 {
		seq, err := h.log.Append(wal.Record{Type: typ, Keyframe: typ == record.TypeKeyframe, Final: typ == record.TypeEnd, Body: body})
		if err == nil {
			if seq%50 == 0 { // so that a group is no segment
				h.wait(seq)
			}
			return
		}
		if !errors.Is(err, wal.ErrBehind) {
			h.t.Fatal(err)
		}
		h.wait(h.log.Status().Next - 1)
	}
	h.t.Fatal("the log takes nothing")
}

func (h *host) wait(seq uint64) {
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	if err := h.log.Wait(ctx, seq); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) begin() {
	h.epoch++
	var zero usage.Reading
	for f := range usage.Field(usage.Counters) {
		zero.Put(f, 0)
	}
	l := usage.Life{
		Incarnation: usage.Incarnation{Host: "host", VM: fmt.Sprint("vm-", h.epoch), Epoch: h.epoch, Boot: "boot", StartTicks: h.epoch},
		Customer:    "acme", Start: h.at, State: usage.Booting, Baseline: zero,
		Limits: usage.Limits{CPUMilli: 2000, MemoryBytes: 1 << 32, TickNs: interval},
	}
	first := zero.With(usage.Resident, 1<<24).With(usage.Allocated, 1<<28)
	h.values[h.epoch] = &first
	h.append(record.TypeBegin, func(dst []byte) []byte { return h.enc.Begin(dst, l) })
}

func (h *host) enter(epoch uint64, state usage.State) {
	h.append(record.TypeEnter, func(dst []byte) []byte { return h.enc.Enter(dst, epoch, h.at, state) })
}

func (h *host) use(v *usage.Reading) {
	add := func(f usage.Field, n uint64) {
		was, _ := v.Value(f)
		v.Put(f, was+n)
	}
	add(usage.CPU, h.rand.Uint64N(interval))
	add(usage.NetSent, h.rand.Uint64N(10_000))
	add(usage.DiskWritten, h.rand.Uint64N(100)<<9)
	v.Put(usage.Resident, h.rand.Uint64N(1<<12)<<12)
}

func (h *host) tick() {
	h.at.Mono += interval + h.rand.Int64N(1000)
	h.at.Wall += interval + h.rand.Int64N(1000)
	var lines []record.Line
	for _, epoch := range slices.Sorted(maps.Keys(h.values)) {
		v := h.values[epoch]
		if h.rand.IntN(3) == 0 {
			h.use(v)
		}
		r := *v
		if h.rand.IntN(10) > 0 {
			r.Forget(usage.DiskWritten)
		}
		lines = append(lines, record.Line{Epoch: epoch, Reading: r})
	}
	missed := uint64(max(h.rand.IntN(40)-37, 0))
	h.append(record.TypeTick, func(dst []byte) []byte { return h.enc.Tick(dst, h.at, missed, lines) })
	for _, l := range lines {
		_, m := h.enc.Account(l.Epoch)
		seq := m.Totals.Next - 1
		h.samples[key{l.Epoch, seq}] = usage.Sample{Seq: seq, At: h.at, State: m.State, Reading: l.Reading}
	}
}

func (h *host) end(epoch uint64) {
	l, m := h.enc.Account(epoch)
	a := usage.Account{Life: *l, Meter: *m}
	v := h.values[epoch]
	h.use(v)
	delete(h.values, epoch)
	e, _ := a.Finish(usage.Sample{Seq: m.Totals.Next, At: h.at, State: usage.Stopped, Reading: *v}, "guest-shutdown")
	h.ends[epoch] = e
	h.append(record.TypeEnd, func(dst []byte) []byte { return h.enc.End(dst, e) })
}

// live goes through n ticks, and what happens between them.
func (h *host) live(n int) {
	for range n {
		some := slices.Sorted(maps.Keys(h.values))
		switch h.rand.IntN(30) {
		case 0:
			h.begin()
		case 1, 2:
			if len(some) > 0 {
				h.enter(some[h.rand.IntN(len(some))], []usage.State{usage.Running, usage.Paused}[h.rand.IntN(2)])
			}
		case 3:
			if len(some) > 4 {
				h.end(some[h.rand.IntN(len(some))])
			}
		}
		h.tick()
	}
}

// reader checks what a log says against what the host knows.
type reader struct {
	h      *host
	meters map[uint64]*usage.Meter
	placed map[uint64]usage.Amount
	ended  map[uint64]bool
	ticks  int
	leaps  int
	found  []usage.Finding
}

func (h *host) read(dir string) (r *reader, lost uint64) {
	h.t.Helper()
	r = &reader{h: h, meters: map[uint64]*usage.Meter{}, placed: map[uint64]usage.Amount{}, ended: map[uint64]bool{}}
	var d record.Decoder
	err := wal.Walk(dir, func(e wal.Entry) error {
		if e.Lost != nil {
			lost += e.Lost.Last - e.Lost.First + 1
			d.Lost()
			return nil
		}
		return d.Decode(e.Type, e.Body, r)
	})
	if err != nil || r.found != nil {
		h.t.Fatal(err, r.found)
	}
	return r, lost
}

func (r *reader) place(epoch uint64) func(usage.Span) {
	return func(s usage.Span) { r.placed[epoch] = r.placed[epoch].Plus(s.Amount) }
}

func (r *reader) Table(at usage.Time, open []record.Open) {
	for i := range open {
		r.Begin(open[i].Life)
		epoch := open[i].Life.Incarnation.Epoch
		r.found = r.meters[epoch].CatchUp(&open[i].Meter, r.place(epoch), r.found)
	}
}

func (r *reader) Begin(l usage.Life) {
	if r.meters[l.Incarnation.Epoch] == nil {
		r.meters[l.Incarnation.Epoch] = l.Meter()
	}
}

func (r *reader) Enter(epoch uint64, at usage.Time, state usage.State) {
	r.meters[epoch].Enter(at, state, r.place(epoch))
}

func (r *reader) Sample(epoch uint64, s usage.Sample) {
	if want, ok := r.h.samples[key{epoch, s.Seq}]; !ok || s != want {
		r.h.t.Fatalf("incarnation %d: %+v, and it was %+v", epoch, s, want)
	}
	r.ticks++
	r.found = r.meters[epoch].Add(s, r.place(epoch), r.found)
}

func (r *reader) Thin(epoch uint64, l usage.Leap) {
	r.leaps++
	r.found = r.meters[epoch].Leap(l, r.place(epoch), r.found)
}

func (r *reader) End(e usage.End) {
	epoch := e.Life.Incarnation.Epoch
	if want := r.h.ends[epoch]; e != want {
		r.h.t.Fatalf("incarnation %d ended: %+v, and it was %+v", epoch, e, want)
	}
	r.Begin(e.Life)
	r.found = append(r.found, r.meters[epoch].Finish(e, r.place(epoch))...)
	r.ended[epoch] = true
}

func (r *reader) Signed(record.Signature) {}

// exact checks that of each incarnation all is known.
func (r *reader) exact() {
	t := r.h.t
	t.Helper()
	for epoch, e := range r.h.ends {
		if m := r.meters[epoch]; !r.ended[epoch] || m.Totals != e.Final || r.placed[epoch].Of != e.Final.Of {
			t.Errorf("incarnation %d: totals %+v, placed %+v, want %+v", epoch, m.Totals, r.placed[epoch], e.Final)
		}
	}
	for epoch := range r.h.values {
		if _, want := r.h.enc.Account(epoch); *r.meters[epoch] != *want || r.placed[epoch].Of != want.Totals.Of {
			t.Errorf("incarnation %d:\n%+v, placed %+v, want\n%+v", epoch, r.meters[epoch], r.placed[epoch], want)
		}
	}
}

// restart forgets all but what is in the log.
func (h *host) restart(r *reader) {
	old := h.enc
	h.enc = record.Encoder{}
	for _, a := range old.Accounts() {
		a.Meter = *r.meters[a.Life.Incarnation.Epoch]
		h.enc.Restore(record.OpenOf(a))
	}
}

func TestThroughALog(t *testing.T) {
	dir, h := t.TempDir(), newHost(t)
	opt := wal.Options{SegmentBytes: 256 << 10}
	for range 3 {
		h.run(dir, opt, func(context.Context) { h.live(2000) })
		r, lost := h.read(dir)
		if lost != 0 || r.ticks != len(h.samples) {
			t.Fatalf("%d records are lost, %d of %d samples are there", lost, r.ticks, len(h.samples))
		}
		r.exact()
		h.restart(r)
		h.at.Mono += 50 * interval // nobody looked
		h.at.Wall += 50 * interval
	}
}

func segments(t *testing.T, dir string) []string {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return names
}

// TestADamagedLogSaysNothingWrong: whatever is torn or flipped, what is read is what was written, and the next keyframe
// has what was used.
func TestADamagedLogSaysNothingWrong(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 8 logs")
	}
	whole, h := t.TempDir(), newHost(t)
	opt := wal.Options{SegmentBytes: 256 << 10}
	h.run(whole, opt, func(context.Context) { h.live(400) })
	for round := range 8 {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		damage(t, dir, rand.New(rand.NewPCG(3, uint64(round))))
		r, lost := h.read(dir)
		if lost > 0 && r.ticks == len(h.samples) {
			t.Error("records are lost, and no sample")
		}
		h.exactAfter(dir)
	}
}

// damage flips bits in stripes of records, so that parity can't mend them, and tears the end off.
func damage(t *testing.T, dir string, r *rand.Rand) {
	names := segments(t, dir)
	for range 1 + r.IntN(4) {
		name := names[r.IntN(len(names))]
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := 8192 + r.IntN(len(data)-8192)
		for range r.IntN(300) {
			data[8192+(at+r.IntN(8000))%(len(data)-8192)] ^= 1 << r.IntN(8)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	last := names[len(names)-1]
	if info, err := os.Stat(last); err != nil || os.Truncate(last, info.Size()-r.Int64N(info.Size()/8)) != nil {
		t.Fatal(err)
	}
}

// exactAfter has another metald go on in a damaged log. It gets its meters from who has read all of it in time.
func (h *host) exactAfter(dir string) {
	other := *h
	other.values, other.samples, other.ends = maps.Clone(h.values), maps.Clone(h.samples), maps.Clone(h.ends)
	for epoch, v := range other.values {
		r := *v
		other.values[epoch] = &r
	}
	other.enc = record.Encoder{}
	for _, a := range h.enc.Accounts() {
		other.enc.Restore(record.OpenOf(a))
	}
	other.run(dir, wal.Options{SegmentBytes: 256 << 10}, func(context.Context) {
		other.tick()
		for epoch := range maps.Clone(other.values) {
			other.end(epoch)
		}
	})
	r, _ := other.read(dir)
	for epoch := range h.values {
		want := other.ends[epoch].Final
		if m := r.meters[epoch]; m == nil || m.Totals != want || r.placed[epoch].Of != want.Of {
			h.t.Fatalf("incarnation %d: %+v, placed %+v, want %+v", epoch, m, r.placed[epoch], want)
		}
	}
}

// TestALogBelowItsQuotaHasAllTotals: the log is made coarser while it is written, and what is billed is the same.
func TestALogBelowItsQuotaHasAllTotals(t *testing.T) {
	dir, h := t.TempDir(), newHost(t)
	fine := wal.Options{SegmentBytes: 128 << 10}
	h.run(dir, fine, func(context.Context) { h.live(6000) })
	before := size(t, dir)
	for _, quota := range []int64{before, before * 2 / 3, before / 2} {
		opt := fine
		opt.QuotaBytes, opt.Thin = quota, Records
		r, _ := h.read(dir)
		h.restart(r)
		h.run(dir, opt, func(ctx context.Context) {
			h.live(20)
			h.below(ctx, quota)
		})
		r, lost := h.read(dir)
		if lost != 0 {
			t.Fatalf("%d records are lost", lost)
		}
		r.exact()
		t.Logf("quota %d: %d bytes, %d ticks and %d leaps of incarnations, level %d", quota, size(t, dir), r.ticks, r.leaps, h.level(dir))
	}
	if h.level(dir) == 0 {
		t.Error("nothing was made coarser")
	}
}

// below waits until the log is small enough, or can't be smaller.
func (h *host) below(ctx context.Context, quota int64) {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		switch s := h.log.Status(); {
		case s.Err != nil:
			h.t.Fatal(s.Err)
		case s.Bytes <= quota/5*4:
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			h.t.Fatalf("the log has %d bytes, with a quota of %d", h.log.Status().Bytes, quota)
		}
	}
}

// level is that of the coarsest record.
func (h *host) level(dir string) (most int) {
	if err := wal.Walk(dir, func(e wal.Entry) error { most = max(most, e.Level); return nil }); err != nil {
		h.t.Fatal(err)
	}
	return most
}

func size(t *testing.T, dir string) (n int64) {
	for _, name := range segments(t, dir) {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}
