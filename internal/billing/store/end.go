package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Announce takes what incarnations used so far, ahead of their ticks. Those that were never opened are passed over. The
// message as it came is kept where it says anything new.
func (s *Store) Announce(ctx context.Context, list map[usage.Incarnation]usage.Totals, message []byte) error {
	for inc, totals := range list {
		if !sane(totals.At) {
			return fmt.Errorf("%w: totals of VM %s have the time %+v", ErrInvalid, inc.VM, totals.At)
		}
	}
	ctx = context.WithoutCancel(ctx) // what is kept raw is done to its end
	return s.change(ctx, func(tx *sql.Tx) error {
		kept := len(message) == 0
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
			if !kept {
				if err := s.raw.Append(message); err != nil {
					return err
				}
				kept = true
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
		if err := r.miss(ctx, tx, r.next, gap.Last+1); err != nil {
			return err
		}
		r.meter.Skip(gap.Last + 1)
		r.next, next = gap.Last+1, gap.Last+1
		r.close()
		return r.save(ctx, tx)
	})
	return next, err
}
