package shipper

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

func TestPendingKeepsWhatIsAdded(t *testing.T) {
	var p pending
	rapid.Check(t, func(t *rapid.T) {
		p.reset()
		var want []usage.Sample
		for range rapid.IntRange(0, 30).Draw(t, "ticks") {
			s := usage.Sample{
				Seq:   rapid.Uint64().Draw(t, "seq"),
				At:    usage.Time{Mono: rapid.Int64().Draw(t, "mono"), Wall: rapid.Int64().Draw(t, "wall")},
				State: usage.State(rapid.IntRange(0, usage.States-1).Draw(t, "state")),
			}
			for f := range usage.Field(usage.Fields) {
				if rapid.Bool().Draw(t, "known") {
					s.Reading.Put(f, rapid.Uint64().Draw(t, "value"))
				}
			}
			p.add(s)
			want = append(want, s)
		}
		got := p.ticks().Samples
		if len(got) != len(want) {
			t.Fatalf("%d ticks of %d", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("tick %d is %+v, and was %+v", i, got[i], want[i])
			}
		}
	})
}

// TestBatchesAreSpread has a thousand VMs that began together fill their batches.
func TestBatchesAreSpread(t *testing.T) {
	const vms, size = 1000, 600
	cut := map[uint64]int{}
	for i := range vms {
		l := newLife(usage.Life{Incarnation: usage.Incarnation{VM: "vm-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)}}, mark{}, size)
		n := 0
		encode := func(batch.Ticks) []byte { n++; return nil }
		for seq := range uint64(3 * size) {
			before := n
			l.tick(seq+1, usage.Sample{Seq: seq, At: usage.Time{Mono: int64(seq+1) * 1e8}, State: usage.Running}, encode)
			if n > before {
				cut[seq/10]++ // by second
			}
		}
		if n < 3 || n > 4 {
			t.Errorf("%d batches of %d ticks", n, 3*size)
		}
	}
	for second, n := range cut {
		if n > 60 { // 17 on average
			t.Errorf("%d batches in second %d", n, second)
		}
	}
}

func TestPauses(t *testing.T) {
	first, last := 250*time.Millisecond, time.Minute
	for n, want := range map[int]time.Duration{0: first, 1: 2 * first, 3: 8 * first, 8: last, 20: last, 1000: last} {
		var longest time.Duration
		for range 2000 {
			p := pause(n, first, last)
			if p <= 0 || p > want {
				t.Fatalf("after %d failures a pause of %s, and at most %s", n, p, want)
			}
			longest = max(longest, p)
		}
		if longest < want*9/10 {
			t.Errorf("after %d failures no pause of 2000 is longer than %s, of at most %s", n, longest, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "x": 0, "-3": 0, "999999": maxSilence, now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestReasonsFitTheWire(t *testing.T) {
	for _, reason := range []string{"", "short", strings.Repeat("a", 256), strings.Repeat("ä", 200), strings.Repeat("a", 255) + "ä"} {
		got := shortened(reason)
		if len(got) > 256 || !utf8.ValidString(got) || !strings.HasPrefix(reason, got) || len(reason) <= 256 && got != reason {
			t.Errorf("%q is %q", reason, got)
		}
	}
}

// TestPace reads old ticks no faster than asked, and does not wait for time in which there was no tick.
func TestPace(t *testing.T) {
	e := &engine{Shipper: &Shipper{cfg: Config{CatchUp: 10}.withDefaults()}}
	began := time.Now()
	wall := int64(1.8e18)
	for i := range uint64(1000) { // 100 s of ticks
		e.record = span{i + 1, i + 1}
		wall += 1e8
		if i == 500 {
			wall += 8 * 3600e9
		}
		e.paced(wall)
		e.paced(wall) // another VM of the same tick
	}
	if wait := e.readFrom.Sub(began); wait < 8*time.Second || wait > 11*time.Second {
		t.Errorf("100 s of ticks are read within %s, at ten times their time", wait)
	}
}

// TestALifeEndsAfterItsLastTicksWereAcknowledged: whatever steps of the end are acknowledged when the shipper starts anew,
// the end is read again and comes to the same last step.
func TestALifeEndsAfterItsLastTicksWereAcknowledged(t *testing.T) {
	encode := func(batch.Ticks) []byte { return []byte("payload") }
	at := func(seq uint64) usage.Time { return usage.Time{Mono: int64(seq+1) * 1e8, Wall: int64(seq+1) * 1e8} }
	for _, ticks := range []uint64{1, 9, 10, 11} { // the last tick ends a batch, or begins one
		about := usage.Life{Incarnation: usage.Incarnation{VM: "a", Epoch: 1}}
		account := usage.Account{Life: about, Meter: *about.Meter()}
		l := newLife(about, mark{Meter: *about.Meter()}, 10)
		for seq := range ticks {
			s := usage.Sample{Seq: seq, At: at(seq), State: usage.Running}
			account.Meter.Add(s, nil, nil)
			l.tick(seq+1, s, encode)
		}
		end, found := account.Finish(usage.Sample{Seq: ticks, At: at(ticks), State: usage.Stopped}, "guest-shutdown")
		if found != nil {
			t.Fatal(found)
		}
		record := ticks + 1
		l.end(record, end, encode)
		for acknowledged := range l.outbox {
			then := mark{Meter: *about.Meter()}
			if acknowledged > 0 {
				then = l.outbox[acknowledged-1].then
			}
			again := newLife(about, then, 10)
			for seq := range ticks {
				if n := seq + 1; n > then.Seen {
					again.tick(n, usage.Sample{Seq: seq, At: at(seq), State: usage.Running}, encode)
				}
			}
			again.end(record, end, encode)
			if len(again.outbox) == 0 || again.outbox[len(again.outbox)-1].kind != toStop {
				t.Fatalf("%d ticks, %d steps acknowledged: the life stays open", ticks, acknowledged)
			}
			if stop, want := again.outbox[len(again.outbox)-1], l.outbox[len(l.outbox)-1]; stop.last != want.last || stop.then != want.then {
				t.Errorf("%d ticks, %d steps acknowledged: it ends with tick %d, and did with %d", ticks, acknowledged, stop.last, want.last)
			}
		}
	}
}
