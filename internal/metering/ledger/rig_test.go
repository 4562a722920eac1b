package ledger

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage/export"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ms     = int64(time.Millisecond)
	second = int64(time.Second)
)

// noon is where histories begin: 12:00 of a day.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// guest is a VM of a history, and the truth about it.
type guest struct {
	life   usage.Life
	meter  usage.Meter
	values [usage.Fields]uint64
	state  usage.State
}

// host writes a log as a sampler does, of VMs that it makes up.
type host struct {
	t       testing.TB
	dir     string
	segment int // bytes
	log     *wal.Log
	stop    func() error
	enc     record.Encoder
	at      usage.Time
	epoch   uint64
	guests  []*guest
	ended   []*guest
	last    uint64 // record
	rng     *rand.Rand
	body    []byte
}

// newHost makes an empty log. It ends with the test, or by close.
func newHost(t testing.TB, seed uint64) *host {
	dir, err := os.MkdirTemp("", "ledger") // a rapid.T has no TempDir
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, segment: 64 << 10, rng: rand.New(rand.NewPCG(seed, 1)), at: usage.Time{Mono: 5 * second, Wall: noon.UnixNano()}}
	h.open()
	return h
}

func (h *host) path() string { return filepath.Join(h.dir, "usage.db") }

func (h *host) open() {
	h.t.Helper()
	log, err := wal.Open(filepath.Join(h.dir, "wal"), wal.Options{SegmentBytes: h.segment, ReserveBytes: 64 << 10, Label: []byte("test")})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- log.Run(ctx) }()
	h.log = log
	h.stop = sync.OnceValue(func() error { cancel(); return errors.Join(<-ran, log.Close()) })
	h.append(record.TypeKeyframe, h.enc.Keyframe(nil, h.at))
}

// close ends the log, and removes everything.
func (h *host) close() {
	if err := errors.Join(h.stop(), os.RemoveAll(h.dir)); err != nil {
		h.t.Error(err)
	}
}

// restart is the log's end and its next beginning: a metald that stopped and one that starts.
func (h *host) restart() {
	h.t.Helper()
	if err := h.stop(); err != nil {
		h.t.Fatal(err)
	}
	h.enc = restored(h)
	h.open()
}

// restored is the encoder of the metald that comes next.
func restored(h *host) (enc record.Encoder) {
	for _, g := range h.guests {
		enc.Restore(record.OpenOf(usage.Account{Life: g.life, Meter: g.meter}))
	}
	return enc
}

func (h *host) append(typ byte, body []byte) {
	h.t.Helper()
	seq, err := h.log.Append(wal.Record{Type: typ, Keyframe: typ == record.TypeKeyframe, Final: typ == record.TypeEnd, Body: body})
	if err != nil {
		h.t.Fatal(err)
	}
	h.last = seq
}

// room appends a keyframe if the log wants one.
func (h *host) room() {
	if h.log.NeedsKeyframe() {
		h.append(record.TypeKeyframe, h.enc.Keyframe(nil, h.at))
	}
}

// flush waits until everything is durable.
func (h *host) flush() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.log.Wait(ctx, h.last); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) begin(vm, tenant string) *guest {
	h.room()
	h.epoch++
	l := usage.Life{
		Incarnation: usage.Incarnation{Host: "host", VM: vm, Epoch: h.epoch, Boot: "boot", StartTicks: 7 * h.epoch},
		Customer:    tenant, Start: h.at, State: usage.Created,
	}
	for f := range usage.Field(usage.Counters) {
		l.Baseline.Put(f, 0)
	}
	g := &guest{life: l, meter: *l.Meter(), state: l.State}
	g.values[usage.Resident], g.values[usage.Allocated] = 100<<20, 256<<20
	h.guests = append(h.guests, g)
	h.append(record.TypeBegin, h.enc.Begin(nil, l))
	h.enter(g, usage.Running)
	return g
}

func (h *host) enter(g *guest, state usage.State) {
	h.room()
	g.state = state
	g.meter.Enter(h.at, state, nil)
	h.append(record.TypeEnter, h.enc.Enter(nil, g.life.Incarnation.Epoch, h.at, state))
}

func (h *host) end(g *guest, reason string) {
	h.room()
	for i := range h.guests {
		if h.guests[i] == g {
			h.guests = append(h.guests[:i:i], h.guests[i+1:]...)
			break
		}
	}
	h.ended = append(h.ended, g)
	a := usage.Account{Life: g.life, Meter: g.meter}
	e, _ := a.Finish(usage.Sample{Seq: a.Meter.Totals.Next, At: h.at, State: usage.Stopped, Reading: g.reading(usage.All)}, reason)
	g.meter = a.Meter
	h.append(record.TypeEnd, h.enc.End(nil, e))
}

func (g *guest) reading(known usage.Set) (r usage.Reading) {
	for f := range usage.Field(usage.Fields) {
		if known.Has(f) {
			r.Put(f, g.values[f])
		}
	}
	return r
}

// tick lets ns pass, in which every VM works a little, and reads all of them; of some it does not know the disks.
func (h *host) tick(ns int64) {
	h.at.Mono += ns
	h.at.Wall += ns
	h.room()
	var lines []record.Line
	for _, g := range h.guests {
		known := usage.All
		g.work(h.rng, ns)
		if h.rng.IntN(3) > 0 {
			known &^= usage.SetOf(usage.DiskRead, usage.DiskWritten)
		}
		if h.rng.IntN(20) == 0 {
			known &^= usage.SetOf(usage.Resident)
		}
		lines = append(lines, record.Line{Epoch: g.life.Incarnation.Epoch, Reading: g.reading(known)})
		g.meter.Add(usage.Sample{Seq: g.meter.Totals.Next, At: h.at, State: g.state, Reading: g.reading(known)}, nil, nil)
	}
	h.body = h.enc.Tick(h.body[:0], h.at, 0, lines)
	h.append(record.TypeTick, h.body)
}

func (g *guest) work(rng *rand.Rand, ns int64) {
	if g.state == usage.Running {
		g.values[usage.CPU] += uint64(rng.Int64N(ns + 1))
		for _, f := range []usage.Field{usage.DiskRead, usage.DiskWritten, usage.NetReceived, usage.NetSent} {
			g.values[f] += uint64(rng.IntN(10_000))
		}
	}
	g.values[usage.Resident] = uint64(100+rng.IntN(50)) << 20
}

// ledger opens the ledger of the host's log.
func (h *host) ledger(change func(*Config)) *Ledger {
	h.t.Helper()
	cfg := Config{Path: h.path(), Log: h.log, MarkEvery: 10 * time.Minute, Now: func() time.Time { return time.Unix(0, h.at.Wall) }}
	if change != nil {
		change(&cfg)
	}
	l, err := Open(context.Background(), cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// caught brings a ledger that nobody runs to the log's end.
func (h *host) caught(l *Ledger) {
	h.t.Helper()
	h.flush()
	if err := l.catchUp(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

func mustClose(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// exported is the ledger's rows as text.
func exported(t testing.TB, l *Ledger) string {
	t.Helper()
	var out strings.Builder
	_, err := export.Write(&out, export.CSV, func(f func(export.Row) error) error {
		return l.Hours(context.Background(), 0, 1<<40, f)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func ask(t testing.TB, l *Ledger, q Query) Answer {
	t.Helper()
	a, err := l.Usage(context.Background(), q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return a
}

func sum(windows []Window) (total usage.Amount) {
	for _, w := range windows {
		total = total.Plus(w.Amount)
	}
	return total
}
