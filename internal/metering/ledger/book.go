package ledger

import (
	"math"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Damaged is the reason of an end that nobody saw: the log lost it, and a later table of the log has the incarnation no
// more. It ended at the last tick that the log has.
const Damaged = "log-damaged"

// account is an incarnation in a book.
type account struct {
	life        usage.Life
	meter       usage.Meter
	quarantined uint64
	end         *ending // nil while it lives

	place  func(usage.Span)
	recent recent
	placed map[int64]row // by unix second of the hour: what came since the book was saved
	saved  bool          // the file has the life
}

// ending is how an incarnation ended.
type ending struct {
	Reason      string
	Totals      usage.Totals
	Quarantined uint64
}

// totals are what was used so far.
func (a *account) totals() usage.Totals { return a.meter.Totals }

// pending is the wall clock, in ns, of the earliest moment that a later span can begin at: what was UNKNOWN since is
// placed when it is known.
func (a *account) pending() int64 {
	at := a.meter.Totals.At.Wall
	known := a.meter.Last.Known()
	for f := range usage.Field(usage.Fields) {
		if known.Has(f) {
			at = min(at, a.meter.Seen[f].Wall)
		}
	}
	return at
}

// book takes what records say, and keeps the accounts of those that live: it is what the ledger, a reading of a part of
// the log and the audit have in common. It does no I/O.
type book struct {
	accounts map[uint64]*account // by epoch
	at       usage.Time          // of the newest record that has a time
	last     uint64              // the highest epoch
	again    bool                // records may be of before what the book has
	low      int64               // the earliest that the wall clock was since the last mark, ns
	high     int64               // the latest that it ever was, or that something was placed at

	wants  func(usage.Life) bool         // whether an incarnation is of interest
	ended  func(epoch uint64) bool       // whether one ended before
	opened func(*account)                // one begins
	closed func(*account)                // one has ended
	placed func(*account, usage.Span)    // something was used
	found  func(*account, usage.Finding) // something cannot be true
	work   int                           // samples, of all incarnations
	list   []usage.Finding
}

var _ record.Sink = (*book)(nil)

func newBook() *book {
	return &book{
		accounts: map[uint64]*account{}, low: math.MaxInt64, high: math.MinInt64,
		wants:  func(usage.Life) bool { return true },
		ended:  func(uint64) bool { return false },
		opened: func(*account) {},
		closed: func(*account) {},
		placed: func(*account, usage.Span) {},
		found:  func(*account, usage.Finding) {},
	}
}

// put adds an account as it was at some moment.
func (b *book) put(life usage.Life, meter usage.Meter, quarantined uint64) *account {
	a := &account{life: life, meter: meter, quarantined: quarantined}
	a.place = func(s usage.Span) {
		b.high = max(b.high, s.From.Wall+s.To.Mono-s.From.Mono) // which is not To.Wall where the clock was set
		b.placed(a, s)
	}
	b.accounts[life.Incarnation.Epoch] = a
	b.last = max(b.last, life.Incarnation.Epoch)
	return a
}

// begin opens the account of a life, unless it is of no interest or has ended.
func (b *book) begin(l usage.Life) *account {
	epoch := l.Incarnation.Epoch
	if a := b.accounts[epoch]; a != nil {
		return a
	}
	if !b.wants(l) || b.ended(epoch) {
		return nil
	}
	a := b.put(l, *l.Meter(), 0)
	b.opened(a)
	return a
}

// Begin opens an account.
func (b *book) Begin(l usage.Life) {
	b.now(l.Start)
	b.begin(l)
}

// Table is all that live: those that are not in it ended, and those that the book has not began, in records that are
// lost.
func (b *book) Table(at usage.Time, open []record.Open) {
	b.now(at)
	listed := make(map[uint64]bool, len(open))
	for i := range open {
		listed[open[i].Life.Incarnation.Epoch] = true
		if a := b.begin(open[i].Life); a != nil {
			b.catchUp(a, &open[i].Meter)
		}
	}
	for epoch, a := range b.accounts {
		if !listed[epoch] && !b.again {
			b.close(a, usage.Totals{}, Damaged)
		}
	}
}

// catchUp brings an account to where a meter is that saw every tick; that changes nothing where no record was lost.
func (b *book) catchUp(a *account, m *usage.Meter) {
	b.list = a.meter.CatchUp(m, a.place, b.list[:0])
	b.quarantine(a, b.list)
	a.recent.push(&a.meter)
}

// Thin adds many ticks that the log has as one.
func (b *book) Thin(epoch uint64, l usage.Leap) {
	b.work++
	b.now(l.After.Totals.At)
	if a := b.accounts[epoch]; a != nil {
		b.catchUp(a, &l.After)
	}
}

// Enter notes a state between two ticks.
func (b *book) Enter(epoch uint64, at usage.Time, state usage.State) {
	b.now(at)
	if a := b.accounts[epoch]; a != nil && (!b.again || at.Mono > a.meter.Totals.At.Mono) {
		a.meter.Enter(at, state, a.place)
	}
}

// Sample adds a tick.
func (b *book) Sample(epoch uint64, s usage.Sample) {
	b.work++
	b.now(s.At)
	if a := b.accounts[epoch]; a != nil {
		b.add(a, s)
	}
}

func (b *book) add(a *account, s usage.Sample) {
	b.list = a.meter.Add(s, a.place, b.list[:0])
	b.quarantine(a, b.list)
	a.recent.push(&a.meter)
}

func (b *book) quarantine(a *account, list []usage.Finding) {
	for _, f := range list {
		if f.Quarantined() {
			a.quarantined++
			b.found(a, f)
		}
	}
}

// End closes an account. It has the whole life, so that it counts also where everything before it is lost.
func (b *book) End(e usage.End) {
	a := b.begin(e.Life)
	if a == nil {
		return
	}
	b.now(e.Last.At)
	b.add(a, e.Last)
	found := a.meter.Check(e.Final)
	for _, f := range found { // what cannot be true is in no total
		e.Final.Of[f.Quantity] = a.meter.Totals.Of[f.Quantity]
	}
	b.quarantine(a, found)
	b.close(a, e.Final, e.Reason)
}

func (b *book) close(a *account, final usage.Totals, reason string) {
	a.meter.Close(final, a.place)
	a.end = &ending{Reason: reason, Totals: a.meter.Totals, Quarantined: a.quarantined}
	delete(b.accounts, a.life.Incarnation.Epoch)
	b.closed(a)
}

// Signed changes nothing here: metald wal verify looks at it.
func (b *book) Signed(record.Signature) {}

func (b *book) now(at usage.Time) {
	if at != (usage.Time{}) {
		b.at = at
		b.low, b.high = min(b.low, at.Wall), max(b.high, at.Wall)
	}
}
