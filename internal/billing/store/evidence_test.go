package store

import (
	"context"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// TestEvidenceIsBounded sends a thousand absurd values and many more: all are counted, and not all have a row.
func TestEvidenceIsBounded(t *testing.T) {
	s := open(t, t.TempDir())
	v := newSender(t, "v", 1)
	v.begin(t, s)
	const bad = maxEvidence + 500
	var ticks batch.Ticks
	for seq := range uint64(bad) {
		at := usage.Time{Mono: tick + int64(seq+1)*tick, Wall: wall0 + int64(seq+1)*tick}
		ticks.Samples = append(ticks.Samples, usage.Sample{Seq: seq, At: at, State: usage.Running, Reading: usage.Reading{}.With(usage.CPU, 1<<62+seq)})
	}
	apply(t, s, Batch{Incarnation: v.start.Incarnation, Customer: "c", Last: bad - 1, Payload: v.codec.Encode(ticks), Raw: []byte("raw")}, AppliedInPart)
	_, quarantined, err := s.Usage(context.Background(), Query{VM: "v"})
	if err != nil || quarantined != bad {
		t.Errorf("%d values are set aside, %v; want %d", quarantined, err, bad)
	}
	g, err := s.Gauges(context.Background())
	if err != nil || g.Quarantined != bad {
		t.Errorf("the gauge says %d, %v", g.Quarantined, err)
	}
	var rows int
	if err := s.read.QueryRow("SELECT count(*) FROM quarantine").Scan(&rows); err != nil || rows > maxEvidence+1 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

// TestHolesAreListed has a batch without some of its ticks.
func TestHolesAreListed(t *testing.T) {
	s := open(t, t.TempDir())
	v := newSender(t, "v", 1)
	v.begin(t, s)
	ticks, err := v.codec.Decode(v.batches[0].Payload)
	if err != nil {
		t.Fatal(err)
	}
	ticks.Samples = append(ticks.Samples[2:100:100], ticks.Samples[103:590]...)
	b := Batch{Incarnation: v.start.Incarnation, Customer: "c", Last: 599, Payload: v.codec.Encode(ticks), Raw: []byte("raw")}
	apply(t, s, b, Applied)
	apply(t, s, b, Duplicate)
	rows, err := s.read.Query("SELECT first, last FROM gaps ORDER BY first")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got [][2]int
	for rows.Next() {
		var gap [2]int
		if err := rows.Scan(&gap[0], &gap[1]); err != nil {
			t.Fatal(err)
		}
		got = append(got, gap)
	}
	want := [][2]int{{0, 1}, {100, 102}, {590, 599}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("gaps %v, want %v", got, want)
	}
}
