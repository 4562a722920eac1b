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
	t := Totals{
		At: d.at, Lines: d.lines, Unread: d.unread, Unknown: d.others,
		Drives: map[string]Drive{}, Networks: map[string]Network{}, VMM: map[string]uint64{},
	}
	for _, g := range d.groups {
		switch {
		case !g.device:
			g.spread(t.VMM)
		case g.known == 0:
		case strings.HasPrefix(g.key, drivePrefix):
			n := g.total
			t.Drives[strings.TrimPrefix(g.key, drivePrefix)] = Drive{n[0], n[1], n[2], n[3], n[4], n[5], n[6]}
		default:
			n := g.total
			t.Networks[strings.TrimPrefix(g.key, networkPrefix)] = Network{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}
		}
	}
	return t
}

// spread adds what is known to a flat map.
func (g *group) spread(to map[string]uint64) {
	for i, f := range g.fields {
		if g.known&(1<<i) != 0 {
			to[g.key+"."+f.name] = g.total[i]
		}
	}
}
