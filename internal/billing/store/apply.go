package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Batch is ticks [First, Last] of an incarnation.
type Batch struct {
	Incarnation usage.Incarnation
	Customer    string
	First, Last uint64
	Payload     []byte
	Totals      *usage.Totals // nil where the sender gives none
	Chain       []byte        // empty where the sender keeps none
	Raw         []byte        // the batch as it came
}

// Outcome is what became of a batch.
type Outcome int

// Outcomes.
const (
	Applied Outcome = iota
	AppliedInPart
	Duplicate
	OutOfSequence
	Unknown
	ChainBroken
)

// Apply takes a batch if it is the one that is expected, and returns the tick that is expected next. What it changes is
// on the disk when it returns.
func (s *Store) Apply(ctx context.Context, b Batch) (outcome Outcome, next uint64, err error) {
	ticks, err := s.codec.Decode(b.Payload)
	if err == nil {
		err = inOrder(b, ticks)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	err = s.change(ctx, func(tx *sql.Tx) error {
		r, err := find(ctx, tx, b.Incarnation)
		if err != nil {
			return err
		}
		if r == nil {
			outcome = Unknown
			return nil
		}
		if err := bound(r, b.Customer); err != nil {
			return err
		}
		outcome, err = s.apply(ctx, tx, r, b, ticks)
		next = r.next
		return err
	})
	return outcome, next, err
}

func (s *Store) apply(ctx context.Context, tx *sql.Tx, r *row, b Batch, ticks batch.Ticks) (Outcome, error) {
	switch {
	case b.Last < r.next:
		return Duplicate, nil
	case b.First != r.next || r.phase == PhaseClosed:
		return OutOfSequence, nil
	}
	var totals usage.Totals
	if b.Totals != nil {
		totals = *b.Totals
	}
	chain := batch.Chain(r.chain, b.Incarnation, b.First, b.Last, b.Payload, totals)
	if len(b.Chain) > 0 && !bytes.Equal(chain[:], b.Chain) {
		return ChainBroken, r.evidence(ctx, tx, "chain_broken", "chain", b.First, totals.At, hex.EncodeToString(r.chain[:]), hex.EncodeToString(b.Chain), hex.EncodeToString(chain[:]))
	}
	if err := s.raw.Append(b.Raw); err != nil {
		return 0, err
	}
	if err := r.holes(ctx, tx, b, ticks); err != nil {
		return 0, err
	}
	from := r.meter.Totals.At
	found := ticks.Replay(r.meter, b.Last, r.place)
	r.next, r.chain = b.Last+1, chain
	if b.Totals != nil {
		totals, findings := believable(r.meter, totals)
		found = append(found, findings...)
		if findings == nil {
			found = append(found, r.meter.Settle(totals, from, r.place)...)
		}
		r.totals = r.totals.Join(totals)
	}
	r.totals = r.totals.Join(r.meter.Totals)
	r.close()
	outcome := Applied
	for _, f := range found {
		if f.Quarantined() {
			outcome = AppliedInPart
		}
	}
	if err := r.quarantine(ctx, tx, found); err != nil {
		return 0, err
	}
	return outcome, r.save(ctx, tx)
}

// believable returns totals without the lines that cannot be true.
func believable(m *usage.Meter, totals usage.Totals) (usage.Totals, []usage.Finding) {
	found := m.Check(totals)
	for _, f := range found {
		totals.Of[f.Quantity] = usage.U128{}
	}
	return totals, found
}

// maxTime keeps differences of times within 64 bits; year 2116.
const maxTime = 1 << 62

func inOrder(b Batch, ticks batch.Ticks) error {
	if b.Last == 1<<64-1 || b.Last-b.First >= 1<<40 {
		return fmt.Errorf("ticks %d to %d", b.First, b.Last)
	}
	if b.Totals != nil && !sane(b.Totals.At) {
		return fmt.Errorf("totals have the time %+v", b.Totals.At)
	}
	next := b.First
	for _, t := range ticks.Samples {
		if t.Seq < next || t.Seq > b.Last {
			return fmt.Errorf("tick %d is out of order in a batch of ticks %d to %d", t.Seq, b.First, b.Last)
		}
		if !sane(t.At) {
			return fmt.Errorf("tick %d has the time %+v", t.Seq, t.At)
		}
		next = t.Seq + 1
	}
	for _, e := range ticks.Entered {
		if !sane(e.At) {
			return fmt.Errorf("a transition has the time %+v", e.At)
		}
	}
	return leapsInOrder(b, ticks.Leaps)
}

func leapsInOrder(b Batch, leaps []usage.Meter) error {
	next := b.First
	for i := range leaps {
		m := &leaps[i]
		if m.Totals.Next <= next || m.Totals.Next > b.Last+1 || m.Lost > m.Totals.Next {
			return fmt.Errorf("a leap to tick %d is out of order in a batch of ticks %d to %d", m.Totals.Next, b.First, b.Last)
		}
		if !sane(m.Totals.At) {
			return fmt.Errorf("a leap to tick %d has the time %+v", m.Totals.Next, m.Totals.At)
		}
		for f := range usage.Field(usage.Fields) {
			v, ok := m.Last.Value(f)
			if ok && (!sane(m.Seen[f]) || m.Seen[f].Mono > m.Totals.At.Mono || v > usage.MaxValue) {
				return fmt.Errorf("a leap to tick %d has %s %d of the time %+v", m.Totals.Next, f, v, m.Seen[f])
			}
		}
		next = m.Totals.Next
	}
	return nil
}

// holes lists the ticks that a batch accounts for and does not have. What a leap stands for is not listed one by one.
func (r *row) holes(ctx context.Context, tx *sql.Tx, b Batch, ticks batch.Ticks) error {
	if len(ticks.Leaps) > 0 {
		return nil
	}
	next := b.First
	for _, s := range ticks.Samples {
		if err := r.miss(ctx, tx, next, s.Seq); err != nil {
			return err
		}
		next = s.Seq + 1
	}
	return r.miss(ctx, tx, next, b.Last+1)
}

// miss lists the ticks from first up to next as a gap, if there are any.
func (r *row) miss(ctx context.Context, tx *sql.Tx, first, next uint64) error {
	if first >= next {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO gaps(incarnation, first, last) VALUES(?,?,?)", r.id, int64(first), int64(next-1))
	return err
}

func sane(t usage.Time) bool {
	return t.Mono >= 0 && t.Wall >= 0 && t.Mono < maxTime && t.Wall < maxTime
}

// close closes an incarnation that has ended, if every tick has come.
func (r *row) close() {
	if r.phase != PhaseClosing || r.final == nil || r.next <= r.finalSeq {
		return
	}
	r.meter.Close(r.final.Join(r.totals), r.place)
	r.totals = r.totals.Join(r.meter.Totals)
	r.phase = PhaseClosed
}
