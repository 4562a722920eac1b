package shipper_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

const (
	tick  = 100_000_000 // ns
	begun = 1_800_000_000 * int64(1e9)
)

// world is a host: VMs whose counters are known functions of their ticks, and the log of them.
type world struct {
	t     testing.TB
	dir   string
	log   *wal.Log
	enc   record.Encoder
	close func()
	now   usage.Time
	vms   map[uint64]*vm
	epoch uint64
	ended []usage.End // in full
	buf   []byte
	lines []record.Line
}

// vm is a VM that lives.
type vm struct {
	life  usage.Life
	n     uint64 // ticks that it had
	state usage.State
}

func newWorld(t testing.TB, opt wal.Options) *world {
	w := &world{t: t, dir: t.TempDir(), vms: map[uint64]*vm{}, now: usage.Time{Mono: 5e9, Wall: begun}}
	w.open(opt)
	t.Cleanup(func() { w.close() })
	return w
}

// open opens the log, as a metald does that starts.
func (w *world) open(opt wal.Options) {
	log, err := wal.Open(w.dir, opt)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- log.Run(ctx) }()
	w.log = log
	w.close = func() {
		w.close = func() {}
		cancel()
		if err := errors.Join(<-ran, log.Close()); err != nil {
			w.t.Error(err)
		}
	}
}

// add appends a record, behind a keyframe where the log wants one. body is made after the keyframe.
func (w *world) add(typ byte, final bool, body func([]byte) []byte) {
	if w.log.NeedsKeyframe() {
		w.append(wal.Record{Type: record.TypeKeyframe, Keyframe: true, Body: w.enc.Keyframe(nil, w.now)})
	}
	w.buf = body(w.buf[:0])
	w.append(wal.Record{Type: typ, Final: final, Body: w.buf})
}

func (w *world) append(r wal.Record) {
	for {
		_, err := w.log.Append(r)
		if err == nil {
			return
		}
		if !errors.Is(err, wal.ErrBehind) {
			w.t.Fatal(err)
		}
		if err := w.log.Wait(context.Background(), w.log.Status().Next-1); err != nil { // the test is faster than the disk
			w.t.Fatal(err)
		}
	}
}

func (w *world) begin(n int) {
	for range n {
		w.epoch++
		name := fmt.Sprintf("vm%d", w.epoch)
		zero := usage.Reading{}
		for f := range usage.Field(usage.Counters) {
			zero.Put(f, 0)
		}
		l := usage.Life{
			Incarnation: usage.Incarnation{Host: "host", VM: name, Epoch: w.epoch, Boot: "boot", StartTicks: 7}, Customer: "tenant" + name,
			Start: w.now, State: usage.Running, Baseline: zero, Limits: usage.Limits{CPUMilli: 4000, MemoryBytes: 1 << 40, TickNs: tick},
		}
		w.add(record.TypeBegin, false, func(b []byte) []byte { return w.enc.Begin(b, l) })
		w.vms[w.epoch] = &vm{life: l, state: usage.Running}
	}
}

// read is what is read of a VM at its tick n.
func (v *vm) read(n uint64) usage.Reading {
	i := v.life.Incarnation.Epoch
	r := usage.Reading{}.With(usage.CPU, (n+1)*(1e6*(i%97)+i)).With(usage.NetReceived, (n+1)*(i%7)*1500).With(usage.NetSent, (n+1)*60)
	r.Put(usage.Resident, 100<<20+(n*i%50)*4096)
	r.Put(usage.Allocated, 256<<20)
	if n%10 == 0 { // nobody asks the disks more often
		r.Put(usage.DiskRead, (n+1)*(i%5)*4096)
		r.Put(usage.DiskWritten, (n+1)*(i%3)*512)
	}
	return r
}

// tick lets 100 ms pass, and has everything read.
func (w *world) tick() {
	w.now.Mono += tick
	w.now.Wall += tick
	w.lines = w.lines[:0]
	for epoch := uint64(1); epoch <= w.epoch; epoch++ {
		v := w.vms[epoch]
		if v == nil {
			continue
		}
		if (v.n+epoch*13)%700 == 50 {
			w.enter(v, usage.Paused)
		} else if (v.n+epoch*13)%700 == 150 && v.state == usage.Paused {
			w.enter(v, usage.Running)
		}
		w.lines = append(w.lines, record.Line{Epoch: epoch, Reading: v.read(v.n)})
		v.n++
	}
	w.add(record.TypeTick, false, func(b []byte) []byte { return w.enc.Tick(b, w.now, 0, w.lines) })
}

func (w *world) ticks(n int) {
	for range n {
		w.tick()
	}
}

// enter has a VM enter a state, half a tick ago.
func (w *world) enter(v *vm, state usage.State) {
	at := usage.Time{Mono: w.now.Mono - tick/2, Wall: w.now.Wall - tick/2}
	w.add(record.TypeEnter, false, func(b []byte) []byte { return w.enc.Enter(b, v.life.Incarnation.Epoch, at, state) })
	v.state = state
}

// end ends a VM a moment after its last tick, with a last reading of everything.
func (w *world) end(epoch uint64) {
	v := w.vms[epoch]
	delete(w.vms, epoch)
	_, meter := w.enc.Account(epoch)
	m := *meter
	last := usage.Sample{Seq: v.n, At: usage.Time{Mono: w.now.Mono + tick/4, Wall: w.now.Wall + tick/4}, State: usage.Stopped, Reading: v.read(v.n / 10 * 10)}
	last.Reading.Put(usage.CPU, (v.n+1)*(1e6*(epoch%97)+epoch))
	last.Reading.Put(usage.NetReceived, (v.n+1)*(epoch%7)*1500)
	last.Reading.Put(usage.NetSent, (v.n+1)*60)
	if v.n%10 != 0 {
		last.Reading.Put(usage.DiskRead, (v.n+1)*(epoch%5)*4096)
		last.Reading.Put(usage.DiskWritten, (v.n+1)*(epoch%3)*512)
	}
	for _, f := range m.Add(last, nil, nil) {
		w.t.Errorf("VM %d: %s", epoch, f)
	}
	e := usage.End{Life: v.life, Last: last, Final: m.Totals, Reason: "guest-shutdown"}
	w.add(record.TypeEnd, true, func(b []byte) []byte { return w.enc.End(b, e) })
	w.ended = append(w.ended, e)
	if got, want := m.Totals.Of[usage.CPU], usage.Of64((v.n+1)*(1e6*(epoch%97)+epoch)); got != want {
		w.t.Fatalf("VM %d used %s ns in truth, and the meter says %s", epoch, want, got)
	}
}

func (w *world) endAll() {
	for epoch := uint64(1); epoch <= w.epoch; epoch++ {
		if w.vms[epoch] != nil {
			w.end(epoch)
		}
	}
}

// durable waits until all is on the disk.
func (w *world) durable() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.log.Wait(ctx, w.log.Status().Next-1); err != nil {
		w.t.Fatal(err)
	}
}

// restart closes the log and opens it again, as a crash and a new metald do. For a while nobody ticks.
func (w *world) restart(opt wal.Options, away uint64) {
	accounts := w.enc.Accounts()
	w.close()
	w.open(opt)
	w.enc = record.Encoder{}
	w.now.Mono += int64(away) * tick
	w.now.Wall += int64(away) * tick
	for _, a := range accounts {
		o := record.OpenOf(a)
		o.Next += away
		w.enc.Restore(o)
		w.vms[a.Life.Incarnation.Epoch].n = o.Next
	}
}
