package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Audit is what came out when a part of the log was read again and compared with the ledger.
type Audit struct {
	From         time.Time // what was used since was made anew; zero: everything
	First, Last  uint64    // numbers of the records that were read
	Incarnations int       // whose totals were compared
	Rows         int       // that were compared
	Different    []string  // what is not the same, for people; at most 100
}

// maxDifferent bounds what an audit tells.
const maxDifferent = 100

// Audit makes the ledger anew of what the log still has of every tick, and compares: the totals of each incarnation, and
// the hours that lie in it as a whole.
func (l *Ledger) Audit(ctx context.Context) (Audit, error) {
	v, err := l.view(everything)
	if err != nil {
		return Audit{}, err
	}
	defer v.close()
	m, err := l.oldestMark(ctx, v.tx)
	if err != nil {
		return Audit{}, err
	}
	b := newBook()
	again, ended := map[uint64]map[int64]row{}, map[uint64]*account{}
	from := usage.Window(m.wall+usage.Hour-1, usage.Hour) / 1e9
	if m.position == 0 {
		from = 0
	}
	all := hours{from, maxUnix}
	b.placed = func(a *account, span usage.Span) { tally(again, a, span, all) }
	b.found = func(a *account, f usage.Finding) { tallyRow(again, a, findingHour(f), row{Quarantined: 1}, all) }
	b.closed = func(a *account) { ended[a.life.Incarnation.Epoch] = a }
	if err := m.accounts(v.tx, l.unzip, b); err != nil {
		return Audit{}, err
	}
	if err := l.read(ctx, m.position, v.position, b, math.MaxInt64, func(uint64) bool { return false }); err != nil {
		return Audit{}, err
	}
	audit := Audit{First: m.position + 1, Last: v.position}
	if from > 0 {
		audit.From = time.Unix(from, 0).UTC()
	}
	err = errors.Join(audit.totals(v, b.accounts), audit.totals(v, ended), audit.rows(v, again, all))
	return audit, err
}

// oldestMark is the first one after which the log has everything.
func (l *Ledger) oldestMark(ctx context.Context, tx *bbolt.Tx) (*mark, error) {
	c := tx.Bucket(marksBucket).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		m, err := readMark(k, v)
		if err != nil {
			return nil, err
		}
		if l.hasAfter(ctx, m.position) {
			return m, nil
		}
	}
	if ctx.Err() != nil {
		return nil, canceled(ctx)
	}
	return nil, errGone
}

func (a *Audit) differs(format string, args ...any) {
	if len(a.Different) < maxDifferent {
		a.Different = append(a.Different, fmt.Sprintf(format, args...))
	}
}

// totals compares those that the log gave with those of the ledger.
func (a *Audit) totals(v *view, accounts map[uint64]*account) error {
	for _, epoch := range sortedEpochs(accounts) {
		have, quarantined, err := v.totals(epoch)
		if err != nil {
			return err
		}
		a.Incarnations++
		if got := accounts[epoch]; got.meter.Totals != have || got.quarantined != quarantined {
			a.differs("VM %s, epoch %d: the log gives %+v, %d set aside; the ledger has %+v, %d", got.life.Incarnation.VM, epoch, got.meter.Totals, got.quarantined, have, quarantined)
		}
	}
	return nil
}

func sortedEpochs[T any](m map[uint64]T) []uint64 {
	list := make([]uint64, 0, len(m))
	for epoch := range m {
		list = append(list, epoch)
	}
	slices.Sort(list)
	return list
}

// rows compares the hours.
func (a *Audit) rows(v *view, again map[uint64]map[int64]row, all hours) error {
	for _, epoch := range sortedEpochs(again) {
		have := map[int64]row{}
		err := v.rows(epoch, all.from, all.to, func(hour int64, r row) error { have[hour] = r; return nil })
		if err != nil {
			return err
		}
		for _, hour := range sortedKeys(again[epoch]) {
			a.Rows++
			if got := again[epoch][hour]; got != have[hour] {
				a.differs("epoch %d, hour from %s: the log gives %+v; the ledger has %+v", epoch, time.Unix(hour, 0).UTC().Format(time.RFC3339), got, have[hour])
			}
		}
	}
	return nil
}
