package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// legacyOf names the one incarnation that a VM has whose client knows none.
func legacyOf(vm string) usage.Incarnation { return usage.Incarnation{VM: vm} }

// Points takes what a client without sequence numbers says, by timestamps. Points that came before change nothing. It
// returns whether something was set aside. Where counters turn out not to be cumulative everything is, what was billed
// before as well, and later points are refused.
func (s *Store) Points(ctx context.Context, vm, customer string, points []usage.Point, rawBatch []byte) (partly bool, err error) {
	for _, p := range points {
		if p.Wall < 0 || p.Wall >= maxTime {
			return false, fmt.Errorf("%w: a timestamp of %d ns since 1970", ErrInvalid, p.Wall)
		}
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	err = s.change(ctx, func(tx *sql.Tx) error {
		r, err := s.legacyRow(ctx, tx, vm, customer)
		if err != nil {
			return err
		}
		if r.line.Void {
			return fmt.Errorf("%w: the counters of VM %s fell again and again: they are differences and no sums, and nothing of them is billed; send cumulative counters, under another VM id", ErrInvalid, vm)
		}
		if err := s.raw.Append(rawBatch); err != nil {
			return err
		}
		place := func(span usage.Span) {
			r.totals.Amount = r.totals.Amount.Plus(span.Amount)
			r.place(span)
		}
		for _, p := range points {
			r.totals.At = usage.Totals{At: r.totals.At}.Join(usage.Totals{At: usage.Time{Mono: p.Wall, Wall: p.Wall}}).At
			if !r.line.Add(p, place) {
				partly = true
				if err := r.evidence(ctx, tx, "restless", "clock", uint64(p.Wall), usage.Time{Wall: p.Wall}, "", p.Reading.String(), ""); err != nil {
					return err
				}
			}
		}
		if r.line.Restless() {
			partly = true
			if err := r.void(ctx, tx); err != nil {
				return err
			}
		}
		return r.save(ctx, tx)
	})
	return partly, err
}

// void takes back what was billed by timestamps, and keeps it as evidence.
func (r *row) void(ctx context.Context, tx *sql.Tx) error {
	billed, err := json.Marshal(r.totals)
	if err != nil {
		return err
	}
	r.totals.Amount, r.placed, r.line = usage.Amount{}, nil, usage.Timeline{Void: true}
	if _, err := tx.ExecContext(ctx, "DELETE FROM ledger WHERE incarnation=?", r.id); err != nil {
		return err
	}
	return r.evidence(ctx, tx, "differences", "clock", 0, r.totals.At, string(billed), "", "")
}

// BeginLegacy binds a VM to a customer for a client that knows no incarnations. It may come late and often.
func (s *Store) BeginLegacy(ctx context.Context, vm, customer string) error {
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	return s.change(ctx, func(tx *sql.Tx) error {
		_, err := s.legacyRow(ctx, tx, vm, customer)
		return err
	})
}

// legacyRow returns the row of a VM, which it opens for the customer where there is none.
func (s *Store) legacyRow(ctx context.Context, tx *sql.Tx, vm, customer string) (*row, error) {
	r, err := find(ctx, tx, legacyOf(vm))
	if err != nil {
		return nil, err
	}
	if r != nil {
		return r, bound(r, customer)
	}
	if err := bindable(ctx, tx, vm, customer); err != nil {
		return nil, err
	}
	r = &row{inc: legacyOf(vm), customer: customer, legacy: true}
	return r, r.save(ctx, tx)
}
