package ledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// zero damages the n-th segment of a log that nobody has open, from the first byte of its frames on.
func (h *host) zero(n int) {
	h.t.Helper()
	names, err := filepath.Glob(filepath.Join(h.dir, "wal", "*.wal"))
	if err != nil || n >= len(names) {
		h.t.Fatalf("%d segments, %v", len(names), err)
	}
	data, err := os.ReadFile(names[n])
	if err == nil {
		clear(data[8192:])
		err = os.WriteFile(names[n], data, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// What is lost costs resolution: a later table of the log has the meters of those that live. Those that are in it no
// more ended, and nobody knows how.
func TestLostRecords(t *testing.T) {
	h := newHost(t, 3)
	defer h.close()
	stays := h.begin("stays", "acme")
	goes := h.begin("goes", "acme")
	for range 1000 {
		h.tick(second)
	}
	h.end(goes, "guest-shutdown")
	comes := h.begin("comes", "acme")
	for range 6000 {
		h.tick(second)
	}
	h.flush()
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h.zero(h.segmentWith("guest-shutdown"))
	h.enc = restored(h)
	h.open()
	h.tick(second)
	l := h.ledger(nil)
	defer mustClose(t, l)
	h.caught(l)
	if s := l.Status(); s.Lost == 0 {
		t.Fatalf("nothing was lost: %+v", s)
	}
	for _, g := range []*guest{stays, comes} {
		if got := sum(ask(t, l, Query{VM: g.life.Incarnation.VM}).Windows).Of; got != g.meter.Totals.Of {
			t.Errorf("%s: %v, the sampler has %v", g.life.Incarnation.VM, got, g.meter.Totals.Of)
		}
	}
	got := sum(ask(t, l, Query{VM: "goes"}).Windows)
	if of := goes.meter.Totals.Of; of[usage.CPU].Less(got.Of[usage.CPU]) || got.Of[usage.CPU].IsZero() {
		t.Errorf("goes: %v ns of CPU, and truly %v", got.Of[usage.CPU], of[usage.CPU])
	}
	v, err := l.view(everything)
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	life, err := readLife(v.tx, goes.life.Incarnation.Epoch)
	if err != nil || life.End == nil || life.End.Reason != Damaged {
		t.Errorf("%+v, %v", life.End, err)
	}
}

// segmentWith is the segment that has a text, such as the reason of an end.
func (h *host) segmentWith(text string) int {
	h.t.Helper()
	names, err := filepath.Glob(filepath.Join(h.dir, "wal", "*.wal"))
	for n, name := range names {
		data, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(data), text) {
			return n
		}
	}
	h.t.Fatalf("none of %d segments has %q, %v", len(names), text, err)
	return 0
}

func TestWindowsWithinAnHourNeedTheLog(t *testing.T) {
	h := newHost(t, 4)
	defer h.close()
	h.begin("a", "acme")
	l := h.ledger(func(c *Config) { c.Retention = 2 * time.Hour })
	defer func() { mustClose(t, l) }()
	for i := range 6 * 3600 / 5 {
		h.tick(5 * second)
		if i%100 == 0 {
			h.caught(l)
			if err := l.save(); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.caught(l)
	whole := exported(t, l)
	free, err := l.Releasable()
	if err != nil || free == 0 || free > l.Position() {
		t.Fatalf("up to %d, %v", free, err)
	}
	if err := h.log.Ack(free); err != nil {
		t.Fatal(err)
	}
	minute := func(at time.Time) Query {
		return Query{VM: "a", From: at, To: at.Add(time.Minute), Step: time.Second}
	}
	if a := ask(t, l, minute(time.Unix(0, h.at.Wall).Truncate(time.Second).Add(-80*time.Minute))); len(a.Windows) != 60 {
		t.Errorf("%d windows of a minute that the log has", len(a.Windows))
	}
	_, err = l.Usage(context.Background(), minute(noon.Add(90*time.Second)))
	if types.KindOf(err) != types.KindPrecondition || !strings.Contains(err.Error(), "available from 2026-11-24T16:00:00Z on") {
		t.Errorf("a minute that the log has no more: %v", err)
	}
	if a := ask(t, l, Query{VM: "a", From: noon, To: noon.Add(6 * time.Hour), Step: time.Hour}); len(a.Windows) != 6 {
		t.Errorf("%d hours", len(a.Windows))
	}
	if audit, err := l.Audit(context.Background()); err != nil || len(audit.Different) > 0 || audit.From.IsZero() || audit.Rows == 0 {
		t.Errorf("%+v, %v", audit, err)
	}
	if exported(t, l) != whole {
		t.Error("the export is another now that the log is shorter")
	}
}

func TestAQueryHasBounds(t *testing.T) {
	h := newHost(t, 5)
	defer h.close()
	h.begin("a", "acme")
	for range 2000 {
		h.tick(100 * ms)
	}
	h.flush()
	l := h.ledger(func(c *Config) { c.ReplayBytes = 10_000 })
	defer mustClose(t, l)
	q := Query{VM: "a", From: noon.Add(time.Second), To: noon.Add(time.Minute)}
	if _, err := l.Usage(context.Background(), q); types.KindOf(err) != types.KindExhausted {
		t.Errorf("more of the log than one query may read: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Usage(ctx, q); types.KindOf(err) != types.KindCanceled {
		t.Errorf("the caller gave up: %v", err)
	}
	for _, bad := range []Query{
		{}, {VM: "a", From: noon}, {VM: "a", From: noon, To: noon}, {VM: "a", From: noon.Add(1), To: noon.Add(time.Hour)},
		{VM: "a", From: noon, To: noon.Add(48 * time.Hour), Step: time.Second}, {VM: "a", From: noon, To: noon.Add(time.Hour), Step: time.Millisecond},
		{VM: "a", From: time.Unix(-5, 0), To: noon}, {VM: "a", From: noon, To: noon.AddDate(500, 0, 0)},
	} {
		if _, err := l.Usage(context.Background(), bad); types.KindOf(err) != types.KindInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// A log that lost its tail, or another log, is told and followed; what the ledger has stays.
func TestALogThatIsBehindTheLedger(t *testing.T) {
	h := newHost(t, 6)
	defer h.close()
	g := h.begin("a", "acme")
	for range 100 {
		h.tick(second)
	}
	h.flush()
	l := h.ledger(nil)
	mustClose(t, l)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(h.dir, "wal")); err != nil {
		t.Fatal(err)
	}
	h.enc = restored(h)
	h.open()
	for range 100 {
		h.tick(second)
	}
	h.flush()
	l = h.ledger(nil)
	defer mustClose(t, l)
	if got := sum(ask(t, l, Query{VM: "a"}).Windows).Of; got != g.meter.Totals.Of {
		t.Errorf("%v, the sampler has %v", got, g.meter.Totals.Of)
	}
	if got := fmt.Sprint(l.Position(), l.LastEpoch()); got != fmt.Sprint(h.last, 1) {
		t.Errorf("position and epoch %s, the log has %d", got, h.last)
	}
}
