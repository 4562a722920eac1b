package ledger

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

const hourSeconds = usage.Hour / 1e9

// sheet is the windows of a query while they are filled. All times are unix seconds.
type sheet struct {
	from, to, step int64
	windows        []Window // all of them, also those in which nothing is
	ranges         []hours  // hours that a window begins or ends in
	quarantined    uint64
}

// hours are whole hours [from, to), unix seconds.
type hours struct{ from, to int64 }

func newSheet(q Query) *sheet {
	s := &sheet{from: q.From.Unix(), to: q.To.Unix(), step: int64(q.Step / time.Second)}
	if s.step == 0 {
		s.step = s.to - s.from
	}
	s.windows = make([]Window, (s.to-s.from+s.step-1)/s.step)
	for at := s.from; at < s.to; at += s.step {
		s.cut(at)
	}
	s.cut(s.to)
	return s
}

// cut notes that a window begins or ends at a moment.
func (s *sheet) cut(at int64) {
	hour := usage.Window(at, hourSeconds)
	if hour == at {
		return
	}
	if n := len(s.ranges); n > 0 && s.ranges[n-1].to >= hour {
		s.ranges[n-1].to = hour + hourSeconds
		return
	}
	s.ranges = append(s.ranges, hours{hour, hour + hourSeconds})
}

// isCut says whether a window begins or ends within an hour.
func (s *sheet) isCut(hour int64) bool {
	for _, r := range s.ranges {
		if hour >= r.from && hour < r.to {
			return true
		}
	}
	return false
}

// window is the one that a moment lies in; below zero for none.
func (s *sheet) window(at int64) int {
	if at < s.from || at >= s.to {
		return -1
	}
	return int((at - s.from) / s.step)
}

func (s *sheet) add(i int, part usage.Amount) { s.windows[i].Amount = s.windows[i].Amount.Plus(part) }

// hours adds the rows of hours that lie in one window as a whole.
func (s *sheet) hours(ctx context.Context, v *view, epochs []uint64) error {
	for _, epoch := range epochs {
		if ctx.Err() != nil {
			return canceled(ctx)
		}
		err := v.rows(epoch, usage.Window(s.from, hourSeconds), s.to, func(hour int64, r row) error {
			if !s.isCut(hour) {
				s.add(s.window(hour), r.Amount)
				s.quarantined += r.Quarantined
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lay lays what a span has in [r.from, r.to) over the windows, as usage.Split does: evenly over its time, each line
// rounded down and the rest carried on.
func (s *sheet) lay(span usage.Span, r hours) {
	length := span.To.Mono - span.From.Mono
	begin, end := span.From.Wall, span.From.Wall+length
	if length <= 0 || length/usage.Hour >= usage.MaxWindows {
		if at := end / 1e9; at >= r.from && at < r.to && s.window(at) >= 0 {
			s.add(s.window(at), span.Amount)
		}
		return
	}
	from := max(begin, r.from*1e9, s.from*1e9)
	until := min(end, r.to*1e9, s.to*1e9)
	for at := from; at < until; {
		i := s.window(at / 1e9)
		next := min(until, (s.from+int64(i+1)*s.step)*1e9)
		s.add(i, between(span.Amount, at-begin, next-begin, length))
		at = next
	}
}

// between is what an amount that is spread evenly over length has from one moment to another.
func between(a usage.Amount, from, to, length int64) usage.Amount {
	if from == 0 && to == length {
		return a
	}
	for q, of := range a.Of {
		if !of.IsZero() {
			a.Of[q] = of.Part(uint64(to), uint64(length)).Minus(of.Part(uint64(from), uint64(length)))
		}
	}
	return a
}

// answer is what the sheet has.
func (s *sheet) answer(known bool) Answer {
	answer := Answer{Known: known, Quarantined: s.quarantined}
	for i, w := range s.windows {
		if w.Amount.IsZero() {
			continue
		}
		from := s.from + int64(i)*s.step
		w.From, w.To = time.Unix(from, 0).UTC(), time.Unix(min(from+s.step, s.to), 0).UTC()
		answer.Windows = append(answer.Windows, w)
	}
	return answer
}
