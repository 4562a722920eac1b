package ledger

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage/export"
)

// sealMargin is how much older than the hour's end everything has to be: a VM that began in its last moment may come
// to the log after the ticks of others.
const sealMargin = time.Minute

// Sealed returns the end of the last hour that is complete: everything that was used before it is in the ledger. A
// VM of which something is UNKNOWN keeps hours open until it is known, or the VM has ended.
func (l *Ledger) Sealed() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	wall := l.cfg.Now().UnixNano()
	if head, _ := l.cfg.Log.Head(); head > l.position && l.book.at.Wall != 0 {
		wall = min(wall, l.book.at.Wall)
	}
	for _, a := range l.book.accounts {
		wall = min(wall, a.pending())
	}
	return time.Unix(0, usage.Window(wall-int64(sealMargin), usage.Hour)).UTC()
}

// Hours calls f for every row of hours in [from, to), unix seconds, in an order that depends on nothing but their
// content. It holds on to nothing while f runs.
func (l *Ledger) Hours(ctx context.Context, from, to int64, f func(export.Row) error) error {
	for hour := usage.Window(from, hourSeconds); ; hour += hourSeconds {
		if ctx.Err() != nil {
			return canceled(ctx)
		}
		var ok bool
		var err error
		if hour, ok, err = l.nextHour(hour); err != nil || !ok || hour >= to {
			return err
		}
		rows, err := l.hour(hour)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := f(r); err != nil {
				return err
			}
		}
	}
}

// everything is for a view of all incarnations.
func everything(usage.Life) bool { return true }

// nextHour is the first hour from one on that has rows.
func (l *Ledger) nextHour(from int64) (hour int64, ok bool, err error) {
	v, err := l.view(everything)
	if err != nil {
		return 0, false, err
	}
	defer v.close()
	c := v.tx.Bucket(hoursBucket).Cursor()
	if k, _ := c.Seek(number(hourKey(max(from, 0)))); k != nil {
		hour, ok = int64(head(k)), true
	}
	for _, rows := range v.places {
		for h := range rows {
			if h >= from && (!ok || h < hour) {
				hour, ok = h, true
			}
		}
	}
	return hour, ok, nil
}

// hour returns the rows of an hour in the order of tenant, VM, host, epoch.
func (l *Ledger) hour(hour int64) ([]export.Row, error) {
	v, err := l.view(everything)
	if err != nil {
		return nil, err
	}
	defer v.close()
	rows := map[uint64]row{}
	c := v.tx.Bucket(hoursBucket).Cursor()
	for k, value := c.Seek(number(hourKey(hour))); len(k) == 16 && int64(head(k)) == hour; k, value = c.Next() {
		if rows[tail(k)], err = readRow(value); err != nil {
			return nil, err
		}
	}
	for epoch, places := range v.places {
		if r, ok := places[hour]; ok {
			rows[epoch] = rows[epoch].plus(r)
		}
	}
	return v.named(hour, rows)
}

// named are the rows of an hour, with whose they are.
func (v *view) named(hour int64, rows map[uint64]row) ([]export.Row, error) {
	list := make([]export.Row, 0, len(rows))
	for epoch, r := range rows {
		if r.Amount.IsZero() { // it says only that values were set aside
			continue
		}
		life, err := v.life(epoch)
		if err != nil {
			return nil, err
		}
		list = append(list, export.Row{Incarnation: life.Incarnation, Customer: life.Customer, Hour: hour, Amount: r.Amount})
	}
	slices.SortFunc(list, func(a, b export.Row) int {
		i, j := a.Incarnation, b.Incarnation
		return cmp.Or(cmp.Compare(a.Customer, b.Customer), cmp.Compare(i.VM, j.VM), cmp.Compare(i.Host, j.Host), cmp.Compare(i.Epoch, j.Epoch))
	})
	return list, nil
}

func (v *view) life(epoch uint64) (usage.Life, error) {
	if a := v.unsaved[epoch]; a != nil {
		return a.life, nil
	}
	saved, err := readLife(v.tx, epoch)
	return saved.Life, err
}
