package usage

import "slices"

// Point is what a client without sequence numbers says of a moment, by its wall clock.
type Point struct {
	Wall    int64 // ns since 1970
	Reading Reading
}

// Run is a stretch of points in which no counter falls.
type Run struct{ First, Last Point }

// Timeline sums up what a client says that knows neither incarnations nor sequence numbers: by timestamps. Points may
// come twice and in any order. All runs but the first began with counters at zero: a counter that falls was reset, and
// what it shows since is what was used since.
type Timeline struct {
	Runs []Run // in order of time
	Void bool  // its counters are not cumulative: nothing that it says is believed
}

// maxRuns bounds what a client can make a Timeline remember.
const maxRuns = 1000

// maxCPUs bounds the CPU time of a VM of which nobody said how many CPUs it has.
const maxCPUs = 4096

// Falls so near to each other are no resets.
const (
	restlessFalls = 3
	restlessTime  = 600_000_000_000 // ns
)

// Restless says whether counters fall so often that they cannot be sums. What a VMM says that tells only what was used
// since it last said something, as Firecracker's metrics do, looks so: of such differences no sum can be made, as one
// that is no smaller than the one before looks like growth.
func (t *Timeline) Restless() bool {
	for i := restlessFalls; i < len(t.Runs); i++ {
		if t.Runs[i].First.Wall-t.Runs[i-restlessFalls].Last.Wall <= restlessTime {
			return true
		}
	}
	return false
}

// legacyTick is the time between two points in which nothing is missing.
const legacyTick = 200_000_000 // ns

// Add takes a point and has placed what it adds. It returns false for a point that cannot be taken: the evidence is
// the point.
func (t *Timeline) Add(p Point, place func(Span)) bool {
	next, inside := slices.BinarySearchFunc(t.Runs, p.Wall, func(r Run, wall int64) int {
		switch {
		case wall < r.First.Wall:
			return 1
		case wall > r.Last.Wall:
			return -1
		}
		return 0
	})
	if inside {
		return true // it is known what was used before it and after it
	}
	if !t.plausible(next, p) {
		return false
	}
	switch {
	case next > 0 && noLess(p, t.Runs[next-1].Last):
		r := &t.Runs[next-1]
		place(between(r.Last, p))
		r.Last = p
	case next < len(t.Runs) && noLess(t.Runs[next].First, p):
		r := &t.Runs[next]
		part := between(p, r.First)
		if next > 0 { // counted from zero before
			part.Amount.Of = onlyTime(part.Amount.Of)
		}
		place(part)
		r.First = p
	case len(t.Runs) >= maxRuns:
		return false
	default:
		t.insert(next, p, place)
	}
	return true
}

// plausible says whether p, before the run next, uses no more CPU time than there can be since the point before it, nor
// leaves more to the point after it.
func (t *Timeline) plausible(next int, p Point) bool {
	fits := func(a, b Point) bool {
		used := b.Reading.values[CPU]
		if noLess(b, a) {
			used -= a.Reading.values[CPU]
		}
		return !Mul(maxCPUs, uint64(b.Wall-a.Wall)+legacyTick).Less(Of64(used))
	}
	return (next == 0 || fits(t.Runs[next-1].Last, p)) && (next == len(t.Runs) || next > 0 || fits(p, t.Runs[next].First))
}

// insert begins a run with p. Where it is the first, the one that was the first turns out to have begun at zero.
func (t *Timeline) insert(i int, p Point, place func(Span)) {
	t.Runs = slices.Insert(t.Runs, i, Run{p, p})
	began := -1
	switch {
	case i > 0:
		began = i
	case len(t.Runs) > 1:
		began = 1
	}
	if began >= 0 {
		first := t.Runs[began].First
		zero := first
		for f := range Field(Counters) {
			zero.Reading.Put(f, 0)
		}
		place(between(zero, first))
	}
}

// noLess says whether no counter of b is below that of a: whether b can come after a in one run.
func noLess(b, a Point) bool {
	for f := range Field(Counters) {
		if b.Reading.values[f] < a.Reading.values[f] {
			return false
		}
	}
	return true
}

// between is what was used from a to b.
func between(a, b Point) Span {
	s := Span{From: Time{Mono: a.Wall, Wall: a.Wall}, To: Time{Mono: b.Wall, Wall: b.Wall}}
	s.Amount.Measured = a.Reading.known & b.Reading.known
	for f := range Field(Counters) {
		s.Amount.Of[f] = Of64(b.Reading.values[f] - a.Reading.values[f])
	}
	ns := uint64(b.Wall - a.Wall)
	held, state := a.Reading.values[Resident], RunningNs
	if ns > legacyTick {
		held, state = min(held, b.Reading.values[Resident]), UnobservedNs
	}
	s.Amount.Of[Resident] = Mul(held, ns)
	s.Amount.Of[state] = Of64(ns)
	return s
}

func onlyTime(of [Quantities]U128) [Quantities]U128 {
	for f := range Counters {
		of[f] = U128{}
	}
	return of
}
