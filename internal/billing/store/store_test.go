package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/raw"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

const (
	tick   = 100_000_000
	second = 1_000_000_000
	wall0  = 1_800_000_000*second - 30*second // half a minute before a full hour
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// sender is one incarnation as its host tells of it.
type sender struct {
	start   Start
	codec   *batch.Codec
	batches []Batch
	totals  usage.Totals
}

// newSender makes n batches of 600 ticks, in which half a CPU is used.
func newSender(t testing.TB, vm string, n int) *sender {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	var base usage.Reading
	for f := range usage.Field(usage.Counters) {
		base.Put(f, 0)
	}
	s := &sender{codec: codec, start: Start{
		Incarnation: usage.Incarnation{Host: "h", VM: vm, Epoch: 7, Boot: "b", StartTicks: 42},
		Customer:    "c", At: usage.Time{Mono: tick, Wall: wall0}, State: usage.Running,
		Baseline: base.With(usage.CPU, 1000*second), Limits: usage.Limits{CPUMilli: 1000, MemoryBytes: 1 << 30, TickNs: tick},
		Raw: []byte("start"),
	}}
	m := usage.NewMeter(s.start.At, usage.Running, s.start.Baseline, s.start.Limits)
	var chain batch.Hash
	for i := range uint64(n) {
		var ticks batch.Ticks
		for seq := i * 600; seq < (i+1)*600; seq++ {
			r := base.With(usage.CPU, 1000*second+(seq+1)*tick/2).With(usage.DiskRead, seq*seq).With(usage.Resident, 100+seq%7).With(usage.Allocated, 1<<29)
			at := usage.Time{Mono: tick + int64(seq+1)*tick, Wall: wall0 + int64(seq+1)*tick}
			ticks.Samples = append(ticks.Samples, usage.Sample{Seq: seq, At: at, State: usage.Running, Reading: r})
		}
		b := Batch{Incarnation: s.start.Incarnation, Customer: "c", First: i * 600, Last: i*600 + 599, Payload: codec.Encode(ticks), Raw: []byte(vm)}
		ticks.Replay(m, b.Last, nil)
		totals := m.Totals
		chain = batch.Chain(chain, b.Incarnation, b.First, b.Last, b.Payload, totals)
		b.Totals, b.Chain = &totals, append([]byte(nil), chain[:]...)
		s.batches = append(s.batches, b)
	}
	s.totals = m.Totals
	return s
}

func (s *sender) begin(t testing.TB, to *Store) {
	t.Helper()
	if err := to.Begin(context.Background(), s.start); err != nil {
		t.Fatal(err)
	}
}

func apply(t testing.TB, to *Store, b Batch, want Outcome) uint64 {
	t.Helper()
	got, next, err := to.Apply(context.Background(), b)
	if err != nil || got != want {
		t.Fatalf("ticks %d to %d: outcome %d, %v; want %d", b.First, b.Last, got, err, want)
	}
	return next
}

func (s *sender) end(t testing.TB, to *Store) {
	t.Helper()
	if err := to.End(context.Background(), End{Incarnation: s.start.Incarnation, Final: s.totals, LastSeq: s.totals.Next - 1, Reason: "guest-shutdown", Raw: []byte("end")}); err != nil {
		t.Fatal(err)
	}
}

func used(t testing.TB, s *Store, q Query) usage.Amount {
	t.Helper()
	windows, _, err := s.Usage(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	var sum usage.Amount
	for _, w := range windows {
		sum = sum.Plus(w.Amount)
	}
	return sum
}

func byHours(vm string) Query {
	from := int64(wall0/second) / HourSeconds * HourSeconds
	return Query{VM: vm, From: from, To: from + 1000*HourSeconds, Step: HourSeconds}
}

// dump is everything that is kept, as text.
func dump(t testing.TB, s *Store) string {
	t.Helper()
	var b strings.Builder
	for _, query := range []string{
		"SELECT " + rowColumns + " FROM incarnations ORDER BY id", "SELECT * FROM ledger", "SELECT * FROM gaps", "SELECT * FROM quarantine",
	} {
		rows, err := s.read.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(dumpRows(t, rows))
	}
	return b.String()
}

func dumpRows(t testing.TB, rows *sql.Rows) string {
	t.Helper()
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		for i := range values {
			fmt.Fprintf(&b, "%s=%v ", columns[i], *values[i].(*any))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestBatchesAreAppliedOnce(t *testing.T) {
	s, v := open(t, t.TempDir()), newSender(t, "v", 3)
	apply(t, s, v.batches[0], Unknown)
	v.begin(t, s)
	if next := apply(t, s, v.batches[1], OutOfSequence); next != 0 {
		t.Errorf("tick %d is expected, want 0", next)
	}
	apply(t, s, v.batches[0], Applied)
	apply(t, s, v.batches[0], Duplicate)
	apply(t, s, v.batches[1], Applied)
	apply(t, s, v.batches[2], Applied)
	v.begin(t, s) // a late repetition zeroes nothing
	if got := used(t, s, Query{VM: "v"}); got != v.totals.Amount {
		t.Errorf("used %v, want %v", got, v.totals.Amount)
	}
	if got := used(t, s, byHours("v")); got != v.totals.Amount {
		t.Errorf("by hours %v, want %v", got, v.totals.Amount)
	}
	if windows, _, _ := s.Usage(context.Background(), byHours("v")); len(windows) != 2 {
		t.Errorf("%d windows, want the hour before and the hour after", len(windows))
	}
	v.end(t, s)
	if list, err := s.Sessions(context.Background(), "h"); err != nil || len(list) != 0 {
		t.Errorf("sessions %v, %v after the end", list, err)
	}
	if got := used(t, s, byHours("v")); got != v.totals.Amount {
		t.Errorf("after the end %v, want %v", got, v.totals.Amount)
	}
}

// TestReplayChangesNothing delivers everything again, in disorder, to an open and to a closed ledger.
func TestReplayChangesNothing(t *testing.T) {
	s, v := open(t, t.TempDir()), newSender(t, "v", 4)
	v.begin(t, s)
	for _, b := range v.batches {
		apply(t, s, b, Applied)
	}
	replay := func() {
		random := rand.New(rand.NewPCG(1, 2))
		for range 200 {
			b := v.batches[random.IntN(len(v.batches))]
			apply(t, s, b, Duplicate)
			v.begin(t, s)
			if err := s.Announce(context.Background(), map[usage.Incarnation]usage.Totals{b.Incarnation: *b.Totals}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, end := range []bool{false, true} {
		if end {
			v.end(t, s)
		}
		before := dump(t, s)
		replay()
		if end {
			v.end(t, s)
		}
		if diff := cmp.Diff(before, dump(t, s)); diff != "" {
			t.Errorf("replay, ended %t:\n%s", end, diff)
		}
	}
}

func TestTotalsComeFirst(t *testing.T) {
	s, v := open(t, t.TempDir()), newSender(t, "v", 3)
	v.begin(t, s)
	apply(t, s, v.batches[0], Applied)
	if err := s.Announce(context.Background(), map[usage.Incarnation]usage.Totals{v.start.Incarnation: v.totals}, nil); err != nil {
		t.Fatal(err)
	}
	if got := used(t, s, Query{Customer: "c"}); got != v.totals.Amount {
		t.Errorf("used %v, announced %v", got, v.totals.Amount)
	}
	if got := used(t, s, byHours("v")).Of[usage.CPU]; got != v.batches[0].Totals.Of[usage.CPU] {
		t.Errorf("%s ns are placed before their ticks have come", got)
	}
	apply(t, s, v.batches[1], Applied)
	apply(t, s, v.batches[2], Applied)
	if total, hours := used(t, s, Query{VM: "v"}), used(t, s, byHours("v")); total != v.totals.Amount || hours != total {
		t.Errorf("total %v, by hours %v, want %v", total, hours, v.totals.Amount)
	}
}

func TestLostTicksCostNoMoney(t *testing.T) {
	ctx := context.Background()
	s, v := open(t, t.TempDir()), newSender(t, "v", 3)
	v.begin(t, s)
	apply(t, s, v.batches[0], Applied)
	for range 2 { // listed once
		if next, err := s.Miss(ctx, Gap{Incarnation: v.start.Incarnation, First: 600, Last: 1199, Raw: []byte{'g'}}); err != nil || next != 1200 {
			t.Fatalf("next %d, %v", next, err)
		}
	}
	if next, err := s.Miss(ctx, Gap{Incarnation: v.start.Incarnation, First: 5000, Last: 6000}); err != nil || next != 1200 {
		t.Errorf("a gap beyond what is expected: next %d, %v", next, err)
	}
	last := v.batches[2]
	last.Chain = nil // the chain of the sender has the batch that is lost
	apply(t, s, last, Applied)
	v.end(t, s)
	total, hours := used(t, s, Query{VM: "v"}), used(t, s, byHours("v"))
	if total.Of[usage.CPU] != v.totals.Of[usage.CPU] || total.Of[usage.Resident] != v.totals.Of[usage.Resident] || hours.Of != total.Of {
		t.Errorf("total %v, by hours %v, want %v", total, hours, v.totals.Amount)
	}
	if total.Of[usage.GapTicks] != usage.Of64(600) {
		t.Errorf("%s ticks are missing, want 600", total.Of[usage.GapTicks])
	}
	if n := strings.Count(dump(t, s), "first="); n != 1 {
		t.Errorf("%d gaps are listed", n)
	}
}

func TestWhatCannotBeIsQuarantined(t *testing.T) {
	ctx := context.Background()
	s, v := open(t, t.TempDir()), newSender(t, "v", 2)
	v.begin(t, s)
	apply(t, s, v.batches[0], Applied)
	liar := v.totals
	liar.Of[usage.CPU] = usage.Of64(1 << 60)
	for range 2 {
		if err := s.Announce(ctx, map[usage.Incarnation]usage.Totals{v.start.Incarnation: liar}, nil); err != nil {
			t.Fatal(err)
		}
	}
	forged := v.batches[1]
	forged.Chain = make([]byte, 32)
	apply(t, s, forged, ChainBroken)
	if got := used(t, s, Query{VM: "v"}).Of[usage.CPU]; got != v.batches[0].Totals.Of[usage.CPU] {
		t.Errorf("%s ns are billed", got)
	}
	_, quarantined, err := s.Usage(ctx, Query{VM: "v"})
	if err != nil || quarantined != 2 {
		t.Errorf("%d values are kept as evidence, %v; want 2", quarantined, err)
	}
	apply(t, s, v.batches[1], Applied) // the honest one
}

func TestACustomerIsBound(t *testing.T) {
	ctx := context.Background()
	s, v := open(t, t.TempDir()), newSender(t, "v", 1)
	v.begin(t, s)
	b := v.batches[0]
	b.Customer = "other"
	if _, _, err := s.Apply(ctx, b); !errors.Is(err, ErrCustomer) {
		t.Errorf("a batch of another customer: %v", err)
	}
	other := v.start
	other.Customer = "other"
	other.Incarnation.Epoch++
	if err := s.Begin(ctx, other); !errors.Is(err, ErrCustomer) {
		t.Errorf("another customer's incarnation of a VM that runs: %v", err)
	}
	apply(t, s, v.batches[0], Applied)
	v.end(t, s)
	if err := s.Begin(ctx, other); err != nil {
		t.Errorf("after its end the name is free: %v", err)
	}
}

func TestLegacyIsMarkedAndExact(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	minute := func(n int64) []usage.Point {
		var points []usage.Point
		for i := n * 600; i <= (n+1)*600; i++ {
			var r usage.Reading
			for f := range usage.Field(usage.Fields - 1) {
				r.Put(f, 0)
			}
			points = append(points, usage.Point{Wall: wall0 + i*tick, Reading: r.With(usage.CPU, uint64(i)*tick/2).With(usage.Resident, 100)})
		}
		return points
	}
	for _, n := range []int64{1, 0, 1, 0} {
		if err := s.BeginLegacy(ctx, "old", "c"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Points(ctx, "old", "c", minute(n), []byte("raw")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Points(ctx, "old", "other", minute(2), []byte("raw")); !errors.Is(err, ErrCustomer) {
		t.Errorf("another customer: %v", err)
	}
	total, hours := used(t, s, Query{VM: "old"}), used(t, s, byHours("old"))
	if total.Of[usage.CPU] != usage.Of64(60*second) || total.Of[usage.Resident] != usage.Mul(100, 120*second) || hours != total {
		t.Errorf("total %v, by hours %v", total, hours)
	}
	if windows, _, _ := s.Usage(ctx, Query{VM: "old"}); len(windows) != 1 || !windows[0].ByTimestamps {
		t.Errorf("windows %+v are not marked", windows)
	}
}

func TestRawBatchesAreKept(t *testing.T) {
	dir := t.TempDir()
	s, v := open(t, dir), newSender(t, "v", 2)
	v.begin(t, s)
	apply(t, s, v.batches[0], Applied)
	apply(t, s, v.batches[1], Applied)
	n := 0
	if err := raw.Read(filepath.Join(dir, "raw"), func([]byte) error { n++; return nil }); err != nil || n != 3 {
		t.Errorf("%d messages, %v; want the start and two batches", n, err)
	}
}
