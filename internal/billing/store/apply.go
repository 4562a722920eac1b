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

// Start opens an incarnation.
type Start struct {
	Incarnation usage.Incarnation
	Customer    string
	At          usage.Time
	State       usage.State
	Baseline    usage.Reading
	Limits      usage.Limits
	Raw         []byte // the message as it came
}

// Begin opens an incarnation; one that is open already stays as it is.
func (s *Store) Begin(ctx context.Context, start Start) error {
	if !sane(start.At) {
		return fmt.Errorf("%w: a baseline has the time %+v", ErrInvalid, start.At)
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	return s.change(ctx, func(tx *sql.Tx) error {
		r, err := find(ctx, tx, start.Incarnation)
		if err != nil {
			return err
		}
		if r != nil {
			return bound(r, start.Customer)
		}
		if err := bindable(ctx, tx, start.Incarnation.VM, start.Customer); err != nil {
			return err
		}
		if err := s.raw.Append(start.Raw); err != nil {
			return err
		}
		r = &row{inc: start.Incarnation, customer: start.Customer}
		r.meter = usage.NewMeter(start.At, start.State, start.Baseline, start.Limits)
		r.totals = r.meter.Totals
		return r.save(ctx, tx)
	})
}

func bound(r *row, customer string) error {
	if r.customer != customer {
		return fmt.Errorf("VM %s: %w", r.inc.VM, ErrCustomer)
	}
	return nil
}

// bindable refuses a customer while an incarnation of the VM is open for another.
func bindable(ctx context.Context, tx *sql.Tx, vm, customer string) error {
	var others int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM incarnations WHERE vm=? AND customer<>? AND phase<>?", vm, customer, PhaseClosed).Scan(&others)
	if err == nil && others > 0 {
		err = fmt.Errorf("VM %s: %w", vm, ErrCustomer)
	}
	return err
}

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
	return nil
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

// Announce takes what incarnations used so far, ahead of their ticks. Those that were never opened are passed over.
func (s *Store) Announce(ctx context.Context, list map[usage.Incarnation]usage.Totals) error {
	for inc, totals := range list {
		if !sane(totals.At) {
			return fmt.Errorf("%w: totals of VM %s have the time %+v", ErrInvalid, inc.VM, totals.At)
		}
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	return s.change(ctx, func(tx *sql.Tx) error {
		for inc, totals := range list {
			r, err := find(ctx, tx, inc)
			if err != nil {
				return err
			}
			if r == nil || r.phase == PhaseClosed {
				continue
			}
			totals, found := believable(r.meter, totals)
			if joined := r.totals.Join(totals); joined == r.totals && found == nil {
				continue
			}
			r.totals = r.totals.Join(totals)
			if err := r.quarantine(ctx, tx, found); err != nil {
				return err
			}
			if err := r.save(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// End is how an incarnation ended.
type End struct {
	Incarnation usage.Incarnation
	Final       usage.Totals
	LastSeq     uint64
	Reason      string
	Raw         []byte // the message as it came
}

// End ends an incarnation. It is closed once its last tick has come.
func (s *Store) End(ctx context.Context, end End) error {
	if !sane(end.Final.At) {
		return fmt.Errorf("%w: final totals have the time %+v", ErrInvalid, end.Final.At)
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	return s.change(ctx, func(tx *sql.Tx) error {
		r, err := find(ctx, tx, end.Incarnation)
		switch {
		case err != nil:
			return err
		case r == nil:
			return ErrUnknown
		case r.phase != PhaseOpen:
			return nil
		}
		if err := s.raw.Append(end.Raw); err != nil {
			return err
		}
		final, found := believable(r.meter, end.Final)
		r.phase, r.final, r.finalSeq, r.reason = PhaseClosing, &final, end.LastSeq, end.Reason
		r.totals = r.totals.Join(final)
		r.close()
		if err := r.quarantine(ctx, tx, found); err != nil {
			return err
		}
		return r.save(ctx, tx)
	})
}

// Gap is ticks that are lost, of which those that have come are not.
type Gap struct {
	Incarnation usage.Incarnation
	First, Last uint64
	Raw         []byte // the message as it came
}

// Miss notes a gap. It returns the tick that is expected next; where that is before the gap, nothing was noted.
func (s *Store) Miss(ctx context.Context, gap Gap) (next uint64, err error) {
	if gap.Last >= maxTime {
		return 0, fmt.Errorf("%w: tick %d", ErrInvalid, gap.Last)
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	err = s.change(ctx, func(tx *sql.Tx) error {
		r, err := find(ctx, tx, gap.Incarnation)
		if err != nil {
			return err
		}
		if r == nil {
			return ErrUnknown
		}
		next = r.next
		if gap.First > r.next || gap.Last < r.next || r.phase == PhaseClosed {
			return nil
		}
		if err := s.raw.Append(gap.Raw); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO gaps(incarnation, first, last) VALUES(?,?,?)", r.id, int64(r.next), int64(gap.Last)); err != nil {
			return err
		}
		r.meter.Skip(gap.Last + 1)
		r.next, next = gap.Last+1, gap.Last+1
		r.close()
		return r.save(ctx, tx)
	})
	return next, err
}
