package ledger

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// replay reads the log of some hours again, as far as q asks for them, and lays what it finds over the windows of s.
// What it finds in an hour that is asked for as a whole has to be what the ledger has, to the last byte.
func (l *Ledger) replay(ctx context.Context, v *view, q Query, r hours, s *sheet) error {
	select {
	case l.replays <- struct{}{}:
		defer func() { <-l.replays }()
	case <-ctx.Done():
		return canceled(ctx)
	}
	start, end := max(r.from, s.from), min(r.to, s.to)
	m, until, err := v.marksFor(start*1e9, end*1e9)
	if err != nil {
		return err
	}
	if m == nil {
		return l.tooOld(ctx, v)
	}
	b, again := newBook(), map[uint64]map[int64]row{}
	whole := hours{usage.Window(start+hourSeconds-1, hourSeconds), usage.Window(end, hourSeconds)}
	b.wants = q.wants
	b.placed = func(a *account, span usage.Span) {
		s.lay(span, r)
		tally(again, a, span, whole)
	}
	b.found = func(a *account, f usage.Finding) {
		s.quarantined += s.inWindow(f.At.Wall, r)
		tallyRow(again, a, findingHour(f), row{Quarantined: 1}, whole)
	}
	if err := m.accounts(v.tx, l.unzip, b); err != nil {
		return err
	}
	done := func(at uint64) bool { return at >= until && b.passed(end*1e9) }
	err = l.read(ctx, m.position, v.position, b, l.cfg.ReplayBytes, done)
	if err == nil {
		err = v.same(q, again, whole)
	}
	switch {
	case errors.Is(err, errGone):
		return l.tooOld(ctx, v)
	case errors.Is(err, errDiffers):
		return types.Errorf(types.KindPrecondition, "the log does not give what was billed from %s to %s any more, as it is damaged: for that there are windows of whole hours only",
			time.Unix(r.from, 0).UTC().Format(time.RFC3339), time.Unix(r.to, 0).UTC().Format(time.RFC3339))
	}
	return err
}

var errDiffers = errors.New("the log does not give what the ledger has")

func findingHour(f usage.Finding) int64 { return usage.Window(f.At.Wall, usage.Hour) / 1e9 }

// passed says whether nothing that comes can lie before a moment, ns of the wall clock.
func (b *book) passed(wall int64) bool {
	if b.at.Wall < wall {
		return false
	}
	for _, a := range b.accounts {
		if a.pending() < wall {
			return false
		}
	}
	return true
}

var errGone = errors.New("the log has that no more, or coarser")

// read gives b the records of the log from after one to another, until done says that it has enough. It reads no more
// bytes than budget.
func (l *Ledger) read(ctx context.Context, after, last uint64, b *book, budget int64, done func(at uint64) bool) error {
	r := l.cfg.Log.NewReader(after)
	defer r.Close()
	var d record.Decoder
	for at, n := after, 0; at < last; n++ {
		if n%64 == 0 && at > after && done(at) {
			return nil
		}
		e, err := r.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return canceled(ctx)
		case errors.Is(err, io.EOF):
			return errGone
		case err != nil:
			return err
		case e.Level > 0 || e.Lost != nil && !e.Lost.Never && e.Lost.First == after+1:
			return errGone
		}
		if budget -= int64(len(e.Body)); budget < 0 {
			return types.Errorf(types.KindExhausted, "these windows need more than %d bytes of the log to be read; ask for a shorter range, or for whole hours", l.cfg.ReplayBytes)
		}
		at = max(at, give(e, &d, b))
	}
	return nil
}

// give lets b take an entry of the log, and returns the number of the record.
func give(e wal.Entry, d *record.Decoder, b *book) uint64 {
	switch {
	case e.Lost != nil:
		d.Lost()
		return e.Lost.Last
	case e.Known:
		readFor(d, e)
		return 0
	case d.Decode(e.Type, e.Body, b) != nil:
		d.Lost()
	}
	return e.Seq
}

func (s *sheet) inWindow(wall int64, r hours) uint64 {
	if at := wall / 1e9; at >= r.from && at < r.to && s.window(at) >= 0 {
		return 1
	}
	return 0
}

// tally adds a span to the rows of the hours of r.
func tally(rows map[uint64]map[int64]row, a *account, span usage.Span, r hours) {
	if r.from >= r.to {
		return
	}
	usage.Split(span, usage.Hour, func(start int64, part usage.Amount) {
		tallyRow(rows, a, start/1e9, row{Amount: part}, r)
	})
}

func tallyRow(rows map[uint64]map[int64]row, a *account, hour int64, part row, r hours) {
	if hour < r.from || hour >= r.to {
		return
	}
	epoch := a.life.Incarnation.Epoch
	if rows[epoch] == nil {
		rows[epoch] = map[int64]row{}
	}
	rows[epoch][hour] = rows[epoch][hour].plus(part)
}

// same compares what was found in the log with the rows of the ledger.
func (v *view) same(q Query, again map[uint64]map[int64]row, r hours) error {
	epochs, err := v.epochs(q)
	if err != nil {
		return err
	}
	found, had := 0, 0
	for _, rows := range again {
		found += len(rows)
	}
	for _, epoch := range epochs {
		err := v.rows(epoch, r.from, r.to, func(hour int64, have row) error {
			had++
			if again[epoch][hour] != have {
				return errDiffers
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if found != had {
		return errDiffers
	}
	return nil
}

// tooOld says from when on the log can be read again.
func (l *Ledger) tooOld(ctx context.Context, v *view) error {
	from, ok, err := l.fineFrom(ctx, v.tx)
	switch {
	case err != nil:
		return err
	case !ok:
		return types.Errorf(types.KindPrecondition, "the log does not have these hours any more: only windows of whole hours are available, until %s of it is there",
			l.cfg.MarkEvery)
	}
	return types.Errorf(types.KindPrecondition, "windows that begin or end within an hour are available from %s on: what is older is kept by the hour",
		from.Format(time.RFC3339))
}

// fineFrom is the first hour from which on the log can be read again.
func (l *Ledger) fineFrom(ctx context.Context, tx *bbolt.Tx) (time.Time, bool, error) {
	c := tx.Bucket(marksBucket).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		m, err := readMark(k, v)
		if err != nil {
			return time.Time{}, false, err
		}
		if ctx.Err() != nil {
			return time.Time{}, false, canceled(ctx)
		}
		if m.wall == math.MinInt64 || !l.hasAfter(ctx, m.position) {
			continue
		}
		hour := usage.Window(m.wall+usage.Hour-1, usage.Hour)
		return time.Unix(0, hour).UTC(), true, nil
	}
	return time.Time{}, false, nil
}

// hasAfter says whether the log has the record after a number, as it was.
func (l *Ledger) hasAfter(ctx context.Context, after uint64) bool {
	if head, _ := l.cfg.Log.Head(); head <= after {
		return true // nothing is missing
	}
	r := l.cfg.Log.NewReader(after)
	defer r.Close()
	for {
		e, err := r.Next(ctx)
		if err != nil || e.Level > 0 || e.Lost != nil && !e.Lost.Never {
			return false
		}
		if e.Lost != nil || !e.Known {
			return true
		}
		if e.Seq == after {
			continue
		}
		return e.First <= after+1
	}
}
