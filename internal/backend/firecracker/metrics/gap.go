package metrics

import "time"

// maxGaps is how many gaps are kept for TakeGaps. Beyond it the last one is widened, so that nothing that is missing
// is called measured.
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

// TakeGaps returns the gaps that ended since it was called last.
func (d *Decoder) TakeGaps() []Gap {
	gaps := d.gaps
	d.gaps = nil
	return gaps
}

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
	if len(d.gaps) < maxGaps {
		d.gaps = append(d.gaps, g)
		return
	}
	last := &d.gaps[maxGaps-1]
	last.Before = g.Before
	last.Unread, last.Missed, last.Told = last.Unread+g.Unread, last.Missed+g.Missed, last.Told+g.Told
}
