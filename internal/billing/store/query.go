package store

import (
	"context"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Query asks what was used: by a VM, by all VMs of a customer, or by a VM of a customer.
type Query struct {
	VM, Customer string // "" for any
	From, To     int64  // unix seconds, whole hours; both 0: everything so far
	Step         int64  // s, whole hours; 0: one window
}

// HourSeconds is the length of the ledger's rows.
const HourSeconds = 3600

// Window is what was used in [From, To), in unix seconds.
type Window struct {
	From, To     int64
	Amount       usage.Amount
	ByTimestamps bool // some of it was reported by clients without sequence numbers
}

// Usage answers q, with windows in order of time, and the number of values that were set aside.
func (s *Store) Usage(ctx context.Context, q Query) ([]Window, uint64, error) {
	quarantined, err := s.quarantined(ctx, q)
	if err != nil {
		return nil, 0, err
	}
	from := "incarnations i"
	hour := "0"
	columns := amountsOf("i")
	where, args := q.who()
	if q.ranged() {
		from, hour = "ledger l JOIN incarnations i ON i.id = l.incarnation", "l.hour"
		columns = amountsOf("l")
		where += " AND l.hour >= ? AND l.hour < ?"
		args = append(args, q.From, q.To)
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+hour+", i.legacy, "+columns+" FROM "+from+" WHERE "+where+" ORDER BY 1", args...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	var windows []Window
	for rows.Next() {
		var at int64
		var legacy bool
		dest, read := amountDest()
		if err := rows.Scan(append([]any{&at, &legacy}, dest...)...); err != nil {
			return nil, 0, err
		}
		w := q.window(at)
		if n := len(windows); n == 0 || windows[n-1].From != w.From {
			windows = append(windows, w)
		}
		last := &windows[len(windows)-1]
		last.Amount = last.Amount.Plus(read())
		last.ByTimestamps = last.ByTimestamps || legacy
	}
	return windows, quarantined, rows.Err()
}

func (q Query) ranged() bool { return q.From != 0 || q.To != 0 }

func (q Query) who() (where string, args []any) {
	where = "1"
	if q.VM != "" {
		where += " AND i.vm = ?"
		args = append(args, q.VM)
	}
	if q.Customer != "" {
		where += " AND i.customer = ?"
		args = append(args, q.Customer)
	}
	return where, args
}

// window is the window that an hour lies in. Windows are counted from q.From.
func (q Query) window(hour int64) Window {
	if !q.ranged() || q.Step == 0 {
		return Window{From: q.From, To: q.To}
	}
	start := hour - (hour-q.From)%q.Step
	return Window{From: start, To: min(start+q.Step, q.To)}
}

func (s *Store) quarantined(ctx context.Context, q Query) (n uint64, err error) {
	where, args := q.who()
	if q.ranged() {
		where += " AND x.at_wall >= ? AND x.at_wall < ?"
		args = append(args, q.From*1e9, q.To*1e9)
	}
	err = s.read.QueryRowContext(ctx, "SELECT "+setAside+" FROM quarantine x JOIN incarnations i ON i.id = x.incarnation WHERE "+where, args...).Scan(&n)
	return n, err
}

// Session is an incarnation that is not closed.
type Session struct {
	Incarnation usage.Incarnation
	Customer    string
	Next        uint64
	Totals      usage.Totals
	Chain       batch.Hash
	Phase       Phase
}

// Sessions lists the incarnations of a host that are not closed, in the order in which they were opened.
func (s *Store) Sessions(ctx context.Context, host string) ([]Session, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT "+rowColumns+" FROM incarnations WHERE host=? AND phase<>? AND legacy=0 ORDER BY id", host, PhaseClosed)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Session
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, Session{r.inc, r.customer, r.next, r.totals, r.chain, r.phase})
	}
	return list, rows.Err()
}

// HourRow is a row of the ledger.
type HourRow struct {
	Incarnation  usage.Incarnation
	Customer     string
	Hour         int64 // unix seconds
	ByTimestamps bool
	Amount       usage.Amount
}

// Hours calls f for every row of the ledger in [from, to), in unix seconds, in an order that depends on nothing but
// their content.
func (s *Store) Hours(ctx context.Context, from, to int64, f func(HourRow) error) error {
	rows, err := s.read.QueryContext(ctx, "SELECT i.host, i.vm, i.epoch, i.boot, i.start_ticks, i.customer, i.legacy, l.hour, "+amountsOf("l")+
		" FROM ledger l JOIN incarnations i ON i.id = l.incarnation WHERE l.hour >= ? AND l.hour < ? ORDER BY l.hour, i.customer, i.vm, i.host, i.epoch, i.boot, i.start_ticks", from, to)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r HourRow
		var epoch, ticks int64
		dest, read := amountDest()
		if err := rows.Scan(append([]any{&r.Incarnation.Host, &r.Incarnation.VM, &epoch, &r.Incarnation.Boot, &ticks, &r.Customer, &r.ByTimestamps, &r.Hour}, dest...)...); err != nil {
			return err
		}
		r.Incarnation.Epoch, r.Incarnation.StartTicks, r.Amount = uint64(epoch), uint64(ticks), read()
		if err := f(r); err != nil {
			return err
		}
	}
	return rows.Err()
}
