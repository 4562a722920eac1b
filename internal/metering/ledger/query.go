package ledger

import (
	"context"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Query asks what was used: by a VM, by all VMs of a tenant, or by a VM of a tenant.
type Query struct {
	VM, Tenant string        // "" for any
	From, To   time.Time     // [From, To), whole seconds; both zero: everything so far
	Step       time.Duration // whole seconds; 0: one window
}

// Window is what was used in [From, To); both are zero where the query has no range.
type Window struct {
	From, To time.Time
	Amount   usage.Amount
}

// Answer is the windows of a query in which something was used, in order of time.
type Answer struct {
	Windows     []Window
	Known       bool   // some incarnation is of what was asked for, whenever
	Quarantined uint64 // values that were set aside in the range
}

// maxWindows bounds an answer.
const maxWindows = 100_000

func (q Query) check() error {
	switch {
	case q.VM == "" && q.Tenant == "":
		return types.Errorf(types.KindInvalid, "name a VM or a tenant")
	case q.ranged() && !q.From.Before(q.To):
		return types.FieldErrorf(types.KindInvalid, "to", "must be later than from")
	case q.From.Nanosecond() != 0 || q.Step%time.Second != 0 || q.Step < 0:
		return types.FieldErrorf(types.KindInvalid, "from", "must be a whole second, as windows are")
	case q.To.Nanosecond() != 0:
		return types.FieldErrorf(types.KindInvalid, "to", "must be a whole second, as windows are")
	case q.ranged() && (q.From.Unix() < 0 || q.To.Unix() > maxUnix):
		return types.FieldErrorf(types.KindInvalid, "from", "must be after 1970, and to before 2200")
	case q.Step > 0 && int64(q.To.Sub(q.From)/q.Step) >= maxWindows:
		return types.FieldErrorf(types.KindInvalid, "step_seconds", "makes more than %d windows; take a longer step, or a shorter range", maxWindows)
	}
	return nil
}

// maxUnix keeps nanoseconds within 64 bits; the year 2200.
const maxUnix = 7_258_118_400

func (q Query) ranged() bool { return !q.From.IsZero() || !q.To.IsZero() }

func (q Query) wants(l usage.Life) bool {
	return (q.VM == "" || l.Incarnation.VM == q.VM) && (q.Tenant == "" || l.Customer == q.Tenant)
}

// Usage answers q. Whole hours are read from the ledger; for windows that begin or end within an hour the log of that
// hour is read again, which is a precondition error where the log does not go back so far, and an exhausted one where
// that would be too much.
func (l *Ledger) Usage(ctx context.Context, q Query) (Answer, error) {
	if err := q.check(); err != nil {
		return Answer{}, err
	}
	v, err := l.view(q.wants)
	if err != nil {
		return Answer{}, err
	}
	defer v.close()
	epochs, err := v.epochs(q)
	if err != nil {
		return Answer{}, err
	}
	if !q.ranged() {
		return v.soFar(ctx, epochs)
	}
	s := newSheet(q)
	if err := s.hours(ctx, v, epochs); err != nil {
		return Answer{}, err
	}
	for _, r := range s.ranges {
		if err := l.replay(ctx, v, q, r, s); err != nil {
			return Answer{}, err
		}
	}
	return s.answer(len(epochs) > 0), nil
}

// view is the ledger at one moment: the file, and what it has not yet.
type view struct {
	tx       *bbolt.Tx
	position uint64 // number of the last record that is in it
	low      int64  // the earliest that the wall clock was since the last mark, ns
	unsaved  map[uint64]*account
	places   map[uint64]map[int64]row
}

// view returns the ledger as it is now, with what is not saved of incarnations that are wanted. It has to be closed.
func (l *Ledger) view(wants func(usage.Life) bool) (*view, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx, err := l.db.Begin(false)
	if err != nil {
		return nil, err
	}
	v := &view{tx: tx, position: l.position, unsaved: map[uint64]*account{}, places: map[uint64]map[int64]row{}}
	saved, err := readState(tx)
	if err != nil {
		v.close()
		return nil, err
	}
	v.low = min(saved.Low, l.book.low)
	if saved.Checkpoint != l.state.Checkpoint { // it was saved this moment: the file has everything
		return v, nil
	}
	for _, list := range []map[uint64]*account{l.book.accounts, l.ended} {
		for epoch, a := range list {
			if wants(a.life) {
				v.add(epoch, a)
			}
		}
	}
	return v, nil
}

func (v *view) add(epoch uint64, a *account) {
	c := &account{life: a.life, meter: a.meter, quarantined: a.quarantined, end: a.end, saved: a.saved}
	v.unsaved[epoch] = c
	rows := make(map[int64]row, len(a.placed))
	for hour, r := range a.placed {
		rows[hour] = r
	}
	v.places[epoch] = rows
}

func (v *view) close() { _ = v.tx.Rollback() }

// epochs lists the incarnations that q asks for, in their order.
func (v *view) epochs(q Query) ([]uint64, error) {
	bucket, name := ofVMBucket, q.VM
	if name == "" {
		bucket, name = ofTenant, q.Tenant
	}
	var list []uint64
	prefix := append([]byte(name), 0)
	c := v.tx.Bucket(bucket).Cursor()
	for k, _ := c.Seek(prefix); len(k) == len(prefix)+8 && string(k[:len(prefix)]) == string(prefix); k, _ = c.Next() {
		epoch := tail(k)
		if v.unsaved[epoch] != nil {
			continue
		}
		if q.VM != "" && q.Tenant != "" {
			life, err := readLife(v.tx, epoch)
			if err != nil {
				return nil, err
			}
			if !q.wants(life.Life) {
				continue
			}
		}
		list = append(list, epoch)
	}
	for epoch := range v.unsaved {
		list = append(list, epoch)
	}
	slices.Sort(list)
	return list, nil
}

// soFar is everything up to now, as one window.
func (v *view) soFar(ctx context.Context, epochs []uint64) (Answer, error) {
	answer := Answer{Known: len(epochs) > 0}
	var sum usage.Amount
	for _, epoch := range epochs {
		if err := ctx.Err(); err != nil {
			return Answer{}, canceled(ctx)
		}
		totals, quarantined, err := v.totals(epoch)
		if err != nil {
			return Answer{}, err
		}
		sum = sum.Plus(totals.Amount)
		answer.Quarantined += quarantined
	}
	if !sum.IsZero() {
		answer.Windows = []Window{{Amount: sum}}
	}
	return answer, nil
}

// totals are those of an incarnation, and how many values of it were set aside.
func (v *view) totals(epoch uint64) (usage.Totals, uint64, error) {
	if a := v.unsaved[epoch]; a != nil {
		return a.meter.Totals, a.quarantined, nil
	}
	life, err := readLife(v.tx, epoch)
	if err != nil {
		return usage.Totals{}, 0, err
	}
	if life.End != nil {
		return life.End.Totals, life.End.Quarantined, nil
	}
	_, meter, err := readAccount(v.tx, epoch, v.tx.Bucket(metersBucket).Get(number(epoch)))
	return meter.Meter.Totals, meter.Quarantined, err
}

// rows calls f for the rows of an incarnation in [from, to), unix seconds, in order.
func (v *view) rows(epoch uint64, from, to int64, f func(hour int64, r row) error) error {
	rows := map[int64]row{}
	c := v.tx.Bucket(ofLifeBucket).Cursor()
	for k, _ := c.Seek(pair(epoch, hourKey(from))); len(k) == 16 && head(k) == epoch && int64(tail(k)) < to; k, _ = c.Next() {
		r, err := readRow(v.tx.Bucket(hoursBucket).Get(pair(tail(k), epoch)))
		if err != nil {
			return err
		}
		rows[int64(tail(k))] = r
	}
	for hour, r := range v.places[epoch] {
		if hour >= from && hour < to {
			rows[hour] = rows[hour].plus(r)
		}
	}
	for _, hour := range sortedKeys(rows) {
		if err := f(hour, rows[hour]); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(rows map[int64]row) []int64 {
	list := make([]int64, 0, len(rows))
	for hour := range rows {
		list = append(list, hour)
	}
	slices.Sort(list)
	return list
}

func canceled(ctx context.Context) error {
	kind, text := types.KindCanceled, "the caller gave up before this was done"
	if ctx.Err() == context.DeadlineExceeded {
		kind, text = types.KindDeadline, "the caller's deadline passed before this was done"
	}
	return types.Errorf(kind, "%s", text)
}
