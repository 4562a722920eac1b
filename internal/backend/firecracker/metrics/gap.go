package metrics

import "time"

// maxGaps is how many gaps are kept. Beyond it the two oldest become one that covers both and what lies between, so
// that nothing that is missing is called measured.
const maxGaps = 64

// Gap is an interval of which something is known to be missing from the totals.
type Gap struct {
	// After is when the last good line before it was written, by Firecracker's wall clock; zero if there was none.
	After time.Time `json:"after"`
	// Before is when the first good line after it was written; zero if there was none before the end.
	Before time.Time `json:"before"`

	Unread uint64 `json:"unread,omitempty"` // pieces of the stream that could not be read
	Missed uint64 `json:"missed,omitempty"` // flushes that Firecracker says it could not write
	Told   uint64 `json:"told,omitempty"`   // calls of Lost
}

func (g Gap) empty() bool { return g.Unread == 0 && g.Missed == 0 && g.Told == 0 }

// Lost marks what follows the last good line as incomplete, for a reason that is not in the stream: bytes of it were
// read and never fed, or the VMM was killed before its last flush.
func (d *Decoder) Lost() { d.open.Told++ }

// AppendGaps appends the gaps that ended, the oldest first.
func (d *Decoder) AppendGaps(to []Gap) []Gap { return append(to, d.gaps...) }

// InGap says whether something is missing since the last good line.
func (d *Decoder) InGap() bool { return !d.open.empty() }

// lost counts what could not be read.
func (d *Decoder) lost(size int, why error) {
	d.unread.Pieces++
	d.unread.Bytes += uint64(size)
	d.unread.Last = why.Error()
	d.open.Unread++
}

// told takes a good line's time, and ends the gap before it.
func (d *Decoder) told(at time.Time) {
	logger := d.byKey[loggerKey]
	d.open.Missed += logger.said(missedKey) + logger.said(failsKey)
	if !d.open.empty() {
		d.closeGap(at)
	}
	d.at = at
}

func (d *Decoder) closeGap(before time.Time) {
	g := d.open
	g.After, g.Before = d.at, before
	d.open = Gap{}
	if len(d.gaps) == maxGaps {
		d.gaps[1] = d.gaps[0].with(d.gaps[1])
		d.gaps = append(d.gaps[:0], d.gaps[1:]...)
	}
	d.gaps = append(d.gaps, g)
}

// with is one gap for g and a later one.
func (g Gap) with(later Gap) Gap {
	return Gap{
		After: g.After, Before: later.Before,
		Unread: g.Unread + later.Unread, Missed: g.Missed + later.Missed, Told: g.Told + later.Told,
	}
}
