package metrics

import (
	"strings"
	"time"
)

// Totals is what the lines said so far, added up since the process started. What no line spoke of is not in it.
type Totals struct {
	At       time.Time // when the last good line was written, by Firecracker's wall clock; zero before the first
	Lines    uint64    // good lines
	Drives   map[string]Drive
	Networks map[string]Network
	VMM      map[string]uint64 // "seccomp.num_faults" and the like; gauges stand as last said

	Unread  Unread
	Unknown uint64 // objects of devices that the Decoder was not told of
}

// Drive is the work of one drive, as the guest asked for it. Reads from the host's page cache are in it.
type Drive struct {
	ReadBytes, WriteBytes uint64
	ReadCount, WriteCount uint64
	FlushCount            uint64
	RateLimited           uint64 // times that a rate limit held requests back
	EngineThrottled       uint64 // times that the I/O engine was full
}

// Network is the traffic of one interface, as the guest sees it: Rx goes into the guest. Bytes include a header of 12
// bytes per frame, Rx what the metadata service answers.
type Network struct {
	RxBytes, TxBytes             uint64
	RxPackets, TxPackets         uint64
	RxFails, TxFails             uint64
	RxRateLimited, TxRateLimited uint64
}

// Totals returns a copy.
func (d *Decoder) Totals() Totals {
	var t Totals
	d.ReadTotals(&t)
	return t
}

// ReadTotals is Totals into t, whose maps are used again.
func (d *Decoder) ReadTotals(t *Totals) {
	t.At, t.Lines, t.Unread, t.Unknown = d.at, d.lines, d.unread, d.others
	t.Drives, t.Networks, t.VMM = emptied(t.Drives), emptied(t.Networks), emptied(t.VMM)
	for _, g := range d.groups {
		switch n := g.total; {
		case !g.device:
			g.spread(t.VMM)
		case g.known == 0:
		case strings.HasPrefix(g.key, drivePrefix):
			t.Drives[strings.TrimPrefix(g.key, drivePrefix)] = Drive{n[0], n[1], n[2], n[3], n[4], n[5], n[6]}
		default:
			t.Networks[strings.TrimPrefix(g.key, networkPrefix)] = Network{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}
		}
	}
}

func emptied[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	clear(m)
	return m
}

// spread adds what is known to a flat map.
func (g *group) spread(to map[string]uint64) {
	for i := range g.fields {
		if g.known&(1<<i) != 0 {
			to[g.names[i]] = g.total[i]
		}
	}
}
