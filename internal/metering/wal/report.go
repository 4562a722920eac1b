package wal

import (
	"slices"
)

// Report is what Verify found.
type Report struct {
	Segments int
	Records  uint64 // that are there
	First    uint64 // the first number that is there
	Last     uint64
	Head     Hash // of the record Last
	Acked    uint64
	// Repaired are the numbers of records that were damaged and can be made from parity.
	Repaired []uint64
	Lost     []Loss
	// Broken are the numbers of records that do not follow the record before, or do not have the trusted hash: somebody
	// changed one of the two.
	Broken []uint64
	// Coarse is how many numbers are in records that were made coarser. The hashes of what they were are gone; the
	// headers of their segments say what the chain was before and after.
	Coarse     uint64
	Unreadable []string // files without a header, or with another one's
	// Trusted is how many of the trusted hashes are those of the records that are there.
	Trusted int
}

// OK says that all that was written is there as it was written.
func (r Report) OK() bool {
	for _, l := range r.Lost {
		if !l.Never {
			return false
		}
	}
	return len(r.Broken) == 0 && len(r.Unreadable) == 0
}

func (r *Report) count(e Entry, sealed Hash, known map[uint64]Hash) {
	if r.Records == 0 {
		r.First = e.First
	}
	r.Records++
	r.Last, r.Head = e.Seq, e.Hash
	if e.Repaired {
		r.Repaired = append(r.Repaired, e.Seq)
	}
	hash := e.Hash
	if e.Level > 0 {
		r.Coarse += e.Seq - e.First + 1
		hash = sealed // zero, but at the segment's end
	}
	want, ok := known[e.Seq]
	switch {
	case !ok || hash == Hash{}:
	case want == hash:
		r.Trusted++
	case !slices.Contains(r.Broken, e.Seq):
		r.Broken = append(r.Broken, e.Seq)
	}
}

// conclude adds what should be behind the last record. What somebody trusts was durable.
func (r *Report) conclude(known map[uint64]Hash) {
	end := r.Acked
	for seq := range known {
		end = max(end, seq)
	}
	last := r.Last
	for _, l := range r.Lost {
		last = max(last, l.Last)
	}
	if end > last {
		r.Lost = append(r.Lost, Loss{First: last + 1, Last: end})
	}
	for i := range r.Lost {
		l := &r.Lost[i]
		for seq := range known {
			l.Never = l.Never && (seq < l.First || seq > l.Last)
		}
	}
}
