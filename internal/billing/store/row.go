package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Phase is where an incarnation is.
type Phase int

// Phases.
const (
	PhaseOpen    Phase = iota
	PhaseClosing       // it has ended, and ticks are still to come
	PhaseClosed
)

// Errors of changes that are refused.
var (
	ErrCustomer = errors.New("the VM is bound to another customer")
	ErrUnknown  = errors.New("the incarnation was never opened; send NotifyVmStarted first")
	ErrInvalid  = errors.New("invalid")
)

// row is an incarnation in the ledger.
type row struct {
	id       int64
	inc      usage.Incarnation
	customer string
	phase    Phase
	legacy   bool
	next     uint64
	chain    batch.Hash
	meter    *usage.Meter   // nil for legacy
	line     usage.Timeline // for legacy
	finalSeq uint64
	final    *usage.Totals
	reason   string
	totals   usage.Totals // what is known of what was used; never less than what the meter has placed

	placed map[int64]usage.Amount // by unix second of the hour; not yet in the ledger
}

const rowColumns = "id, host, vm, epoch, boot, start_ticks, customer, phase, legacy, next_seq, chain, meter, final_seq, final, reason, " +
	"at_mono, at_wall, totals_next, " + amountColumns

// place lays a span over the hours of the ledger.
func (r *row) place(s usage.Span) {
	if r.placed == nil {
		r.placed = map[int64]usage.Amount{}
	}
	usage.Split(s, usage.Hour, func(start int64, part usage.Amount) {
		r.placed[start/1e9] = r.placed[start/1e9].Plus(part)
	})
}

type scanner interface{ Scan(dest ...any) error }

func scanRow(from scanner) (*row, error) {
	r := &row{}
	var epoch, ticks, next, finalSeq, totalsNext int64
	var meter, final string
	var chain []byte
	dest := []any{&r.id, &r.inc.Host, &r.inc.VM, &epoch, &r.inc.Boot, &ticks, &r.customer, &r.phase, &r.legacy, &next, &chain, &meter, &finalSeq, &final, &r.reason,
		&r.totals.At.Mono, &r.totals.At.Wall, &totalsNext}
	amount, read := amountDest()
	if err := from.Scan(append(dest, amount...)...); err != nil {
		return nil, err
	}
	r.inc.Epoch, r.inc.StartTicks, r.next, r.finalSeq, r.totals.Next = uint64(epoch), uint64(ticks), uint64(next), uint64(finalSeq), uint64(totalsNext)
	r.totals.Amount = read()
	copy(r.chain[:], chain)
	into := any(&r.line)
	if !r.legacy {
		r.meter = &usage.Meter{}
		into = r.meter
	}
	err := json.Unmarshal([]byte(meter), into)
	if final != "" {
		err = errors.Join(err, json.Unmarshal([]byte(final), &r.final))
	}
	if err != nil {
		return nil, fmt.Errorf("incarnation %d of the ledger: %w", r.id, err)
	}
	return r, nil
}

// find returns the row of an incarnation; nil if there is none.
func find(ctx context.Context, tx *sql.Tx, inc usage.Incarnation) (*row, error) {
	r, err := scanRow(tx.QueryRowContext(ctx, "SELECT "+rowColumns+" FROM incarnations WHERE host=? AND vm=? AND epoch=? AND boot=? AND start_ticks=?",
		inc.Host, inc.VM, int64(inc.Epoch), inc.Boot, int64(inc.StartTicks)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return r, err
}

// save writes r, and what was placed since it was read.
func (r *row) save(ctx context.Context, tx *sql.Tx) error {
	meter, err := json.Marshal(r.line)
	if !r.legacy {
		meter, err = json.Marshal(r.meter)
	}
	if err != nil {
		return err
	}
	var final []byte
	if r.final != nil {
		if final, err = json.Marshal(r.final); err != nil {
			return err
		}
	}
	args := []any{nil, r.inc.Host, r.inc.VM, int64(r.inc.Epoch), r.inc.Boot, int64(r.inc.StartTicks), r.customer, r.phase, r.legacy, int64(r.next), r.chain[:], string(meter),
		int64(r.finalSeq), string(final), r.reason, r.totals.At.Mono, r.totals.At.Wall, int64(r.totals.Next)}
	if r.id != 0 {
		args[0] = r.id
	}
	args = append(args, amountArgs(r.totals.Amount)...)
	verb := "INSERT INTO incarnations(" + rowColumns + ") VALUES(" + marks(len(args)) + ")"
	if r.id != 0 {
		verb = "UPDATE incarnations SET (" + rowColumns + ")=(" + marks(len(args)) + ") WHERE id=?"
		args = append(args, r.id)
	}
	result, err := tx.ExecContext(ctx, verb, args...)
	if err != nil {
		return err
	}
	if r.id == 0 {
		if r.id, err = result.LastInsertId(); err != nil {
			return err
		}
	}
	return r.post(ctx, tx)
}

// post adds what was placed to the rows of the ledger.
func (r *row) post(ctx context.Context, tx *sql.Tx) error {
	for hour, part := range r.placed {
		dest, read := amountDest()
		err := tx.QueryRowContext(ctx, "SELECT "+amountColumns+" FROM ledger WHERE incarnation=? AND hour=?", r.id, hour).Scan(dest...)
		switch {
		case err == nil:
			part = part.Plus(read())
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		args := append([]any{r.id, hour}, amountArgs(part)...)
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO ledger(incarnation, hour, "+amountColumns+") VALUES("+marks(len(args))+")", args...); err != nil {
			return err
		}
	}
	r.placed = nil
	return nil
}

// quarantine keeps the evidence of values that were set aside. Evidence that is kept already is not kept twice.
func (r *row) quarantine(ctx context.Context, tx *sql.Tx, found []usage.Finding) error {
	for _, f := range found {
		line := f.Quantity.String()
		if f.Kind == usage.ClockFell || f.Kind == usage.WallStepped {
			line = "clock"
		}
		if err := r.evidence(ctx, tx, f.Kind.String(), line, f.Seq, f.At, f.Was.String(), f.Got.String(), f.Most.String()); err != nil {
			return err
		}
	}
	return nil
}

// maxEvidence is how many pieces of evidence an incarnation has in the ledger. What is beyond it is counted, in one row
// whose kind is "more"; the batches that it came with are kept raw.
const maxEvidence = 1000

func (r *row) evidence(ctx context.Context, tx *sql.Tx, kind, line string, seq uint64, at usage.Time, was, got, most string) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM quarantine WHERE incarnation=?", r.id).Scan(&n); err != nil {
		return err
	}
	if n >= maxEvidence {
		_, err := tx.ExecContext(ctx, "INSERT INTO quarantine(incarnation, kind, line, seq, at_mono, at_wall, was, got, most) VALUES(?,'more','',0,?,?,'1','','') "+
			"ON CONFLICT DO UPDATE SET was = CAST(was AS INTEGER) + 1", r.id, at.Mono, at.Wall)
		return err
	}
	_, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO quarantine(incarnation, kind, line, seq, at_mono, at_wall, was, got, most) VALUES(?,?,?,?,?,?,?,?,?)",
		r.id, kind, line, int64(seq), at.Mono, at.Wall, was, got, most)
	return err
}

// setAside sums up how many values are set aside, in a query of the table quarantine as x.
const setAside = "coalesce(sum(CASE x.kind WHEN 'wall_stepped' THEN 0 WHEN 'more' THEN CAST(x.was AS INTEGER) ELSE 1 END), 0)"
