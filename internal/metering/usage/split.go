package usage

// Hour is the length of the ledger's windows, in ns.
const Hour = 3600 * second

// Window is the start of the window of step ns that wall lies in.
func Window(wall, step int64) int64 {
	start := wall - wall%step
	if start > wall {
		start -= step
	}
	return start
}

// MaxWindows is the most windows that one span is laid over; a longer one lies in its last window as a whole.
const MaxWindows = 200_000

// Split lays a span over the windows of the calendar that it touches, in order, evenly over its time. Each line is
// rounded down and the remainder carried on, so the parts sum up to the whole exactly. A span that has no time lies in
// the window of its moment. Where the wall clock was set during the span, it lies where it began.
func Split(s Span, step int64, put func(start int64, part Amount)) {
	length := s.To.Mono - s.From.Mono
	begin, end := s.From.Wall, s.From.Wall+length
	if length <= 0 || (end-begin)/step >= MaxWindows {
		put(Window(end, step), s.Amount)
		return
	}
	if first := Window(begin, step); end <= first+step {
		put(first, s.Amount)
		return
	}
	var laid Amount
	for start := Window(begin, step); start < end; start += step {
		until := min(start+step, end)
		part := s.Amount
		for q := range part.Of {
			upTo := s.Amount.Of[q].Part(uint64(until-begin), uint64(length))
			part.Of[q] = upTo.Minus(laid.Of[q])
			laid.Of[q] = upTo
		}
		put(start, part)
	}
}
