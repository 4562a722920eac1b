package sampler

import (
	"errors"
	"log/slog"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// tapState is a tap of a life. It is of Run's goroutine once it is in a source that is attached.
type tapState struct {
	name  string
	index int // 0 where the name is none
	from  tap.Counters
	now   tap.Counters
	round uint64 // the last one that has it in the dump
}

// dumper is tap.Dumper.
type dumper interface {
	Dump(each func(index int, c tap.Counters)) error
	Close()
}

// openTaps finds the taps of a VM. It is nil where the VMM counts for all interfaces, and empty where nobody counts.
func openTaps(from []types.TapSource, spec types.Spec, log *slog.Logger) []*tapState {
	if len(from) == 0 {
		return nil
	}
	taps := make([]*tapState, 0, len(from))
	if len(from) < len(spec.Networks) {
		return taps // a sum that lacks one is none
	}
	for _, t := range from {
		index, err := tap.Index(t.Name)
		if err != nil {
			log.Warn("a tap is not metered until it is there", "tap", t.Name, "error", err)
		}
		taps = append(taps, &tapState{name: t.Name, index: index, from: tap.Counters(t.From)})
	}
	return taps
}

// readTaps reads the counters of all taps.
func (w *sweep) readTaps() error {
	if len(w.byIndex) == 0 {
		return nil
	}
	if w.dumper == nil {
		d, err := w.open()
		if err != nil {
			return err
		}
		w.dumper = d
	}
	return w.dumper.Dump(w.each)
}

// index makes the table of taps anew.
func (w *sweep) index() {
	clear(w.byIndex)
	for i := range w.work {
		if c := w.work[i].source; c != nil {
			for _, t := range c.taps {
				if t.index != 0 {
					w.byIndex[t.index] = t
				}
			}
		}
	}
}

func (w *sweep) take(index int, c tap.Counters) {
	if t := w.byIndex[index]; t != nil {
		t.now, t.round = c, w.round
	}
}

// netReading is the sum over the taps, if all were in this round's dump.
func (w *sweep) netReading(c *source, r *usage.Reading) {
	if len(c.taps) == 0 {
		return
	}
	var sum types.NetworkUsage
	for _, t := range c.taps {
		since, ok := t.now.Since(t.from)
		if t.round != w.round || !ok {
			return
		}
		sum.ReceivedBytes += since.ReceivedBytes
		sum.SentBytes += since.SentBytes
	}
	putNet(r, sum)
}

// seek looks again for taps that were not in the dump: they may have been made anew. found says that one has another
// index now.
func (w *sweep) seek(c *source) (found bool) {
	for _, t := range c.taps {
		if t.round == w.round {
			continue
		}
		index, err := tap.Index(t.name)
		if err != nil && !errors.Is(err, tap.ErrAbsent) {
			continue
		}
		if index != t.index {
			t.index, found = index, true
		}
	}
	return found
}
