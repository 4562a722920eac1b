package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// legacyOf names the one incarnation that a VM has whose client knows none.
func legacyOf(vm string) usage.Incarnation { return usage.Incarnation{VM: vm} }

// Points takes what a client without sequence numbers says, by timestamps. Points that came before change nothing.
func (s *Store) Points(ctx context.Context, vm, customer string, points []usage.Point, rawBatch []byte) error {
	for _, p := range points {
		if p.Wall < 0 || p.Wall >= maxTime {
			return fmt.Errorf("%w: a timestamp of %d ns since 1970", ErrInvalid, p.Wall)
		}
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	return s.change(ctx, func(tx *sql.Tx) error {
		r, err := s.legacyRow(ctx, tx, vm, customer)
		if err != nil {
			return err
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
				if err := r.evidence(ctx, tx, "restless", "clock", uint64(p.Wall), usage.Time{Wall: p.Wall}, "", p.Reading.String(), ""); err != nil {
					return err
				}
			}
		}
		return r.save(ctx, tx)
	})
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
