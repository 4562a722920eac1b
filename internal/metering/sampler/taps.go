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
	Index(name string) (int, error)
	Dump(each func(index int, c tap.Counters)) error
	Close()
}

// begin opens what taps are read by, in the network namespace of the calling thread.
func (w *sweep) begin(log *slog.Logger) {
	if w.dumper != nil {
		return
	}
	d, err := tap.NewDumper()
	if err != nil {
		log.Error("taps cannot be read, and are not metered", "error", err)
		return
	}
	w.dumper = d
}

func (w *sweep) end() {
	if w.dumper != nil {
		w.dumper.Close()
	}
}

// openTaps are the taps of a VM. It is nil where the VMM counts for all interfaces, and empty where nobody counts.
func openTaps(from []types.TapSource, spec types.Spec) []*tapState {
	if len(from) == 0 {
		return nil
	}
	taps := make([]*tapState, 0, len(from))
	if len(from) < len(spec.Networks) {
		return taps // a sum that lacks one is none
	}
	for _, t := range from {
		taps = append(taps, &tapState{name: t.Name, from: tap.Counters(t.From)})
	}
	return taps
}

// readTaps reads the counters of all taps.
func (w *sweep) readTaps() error {
	if len(w.byIndex) == 0 || w.dumper == nil {
		return nil
	}
	return w.dumper.Dump(w.each)
}

// index makes the table of taps anew, after it has found those that are new.
func (w *sweep) index() {
	clear(w.byIndex)
	for i := range w.work {
		for _, t := range w.work[i].source.taps {
			if t.index == 0 {
				w.find(t)
			}
			if t.index != 0 {
				w.byIndex[t.index] = t
			}
		}
	}
}

// find looks for a tap by its name. It returns whether it has another index than before: it was made anew.
func (w *sweep) find(t *tapState) bool {
	if w.dumper == nil {
		return false
	}
	index, err := w.dumper.Index(t.name)
	if err != nil && !errors.Is(err, tap.ErrAbsent) || index == t.index {
		return false
	}
	t.index = index
	return true
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

// seek looks again for taps that were not in the dump. It returns whether one was found anew.
func (w *sweep) seek(c *source) (found bool) {
	for _, t := range c.taps {
		if t.round != w.round {
			found = w.find(t) || found
		}
	}
	return found
}
