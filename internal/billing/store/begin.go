package store

import (
	"context"
	"database/sql"
	"fmt"

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
