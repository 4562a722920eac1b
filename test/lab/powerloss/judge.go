package powerloss

import (
	"fmt"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Loss is what was heard of a host up to the moment its power was taken.
type Loss struct {
	Boot   string
	Words  []Word
	Killed int64 // the host's CLOCK_MONOTONIC when its power was gone for certain
}

// recent is how far back the host's present state is looked for.
const recent = time.Second

// last is the last word, the zero one where nothing was heard.
func (l Loss) last() Word {
	if len(l.Words) == 0 {
		return Word{}
	}
	return l.Words[len(l.Words)-1]
}

// Slow says how slow the host was shortly before: the longest sync, and how much later than it wanted to it spoke.
// An emulated host on a busy machine stands still now and then, and metald with it.
func (l Loss) Slow() (sync, late time.Duration) {
	from := l.last().Mono - recent.Nanoseconds()
	for i, w := range l.Words {
		if w.Mono < from {
			continue
		}
		sync = max(sync, w.Sync())
		if i > 0 {
			late = max(late, time.Duration(w.Mono-l.Words[i-1].Mono)-WordEvery)
		}
	}
	return sync, late
}

// Verdict is how well the log knew an incarnation that the loss of power ended.
type Verdict struct {
	Lag        time.Duration // from its last durable tick to the last word of the host
	Sync, Late time.Duration // Loss.Slow
	Unbilled   time.Duration // CPU time that the last word knew of and the log does not
	Faults     []string
}

// Strict says whether the log was at most a tick and a sync behind, however late the host was.
func (v Verdict) Strict() bool { return v.Lag <= Tick+v.Sync }

// neverRan is why an incarnation ended whose VM was still being created.
const neverRan = "never-ran"

// Judge holds an incarnation as it was closed, and as the loss left it, against what was heard.
func Judge(l Loss, left, closed Life) Verdict {
	last := l.last()
	v := Verdict{Lag: time.Duration(last.Mono - closed.FinalAt)}
	v.Sync, v.Late = l.Slow()
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			v.Faults = append(v.Faults, fmt.Sprintf("%s, epoch %d: ", closed.VM, closed.Epoch)+fmt.Sprintf(format, args...))
		}
	}
	_, ran := last.CPU[closed.VM]
	fault(!closed.Ended, "is open although its host has another boot")
	fault(closed.Ended && closed.Reason != types.ReasonHostReboot && (ran || closed.Reason != neverRan),
		"ended as %q because its host lost power", closed.Reason)
	// An end has a number of its own, after the ticks.
	fault(closed.FinalAt != left.At || closed.FinalTicks > left.Ticks+1 || closed.FinalTicks < left.Ticks || closed.FinalCPU != left.CPU,
		"closed at %d with %d ticks and %d ns; of its ticks the last was at %d, there were %d, with %d ns",
		closed.FinalAt, closed.FinalTicks, closed.FinalCPU, left.At, left.Ticks, left.CPU)
	fault(v.Lag > Tick+v.Sync+v.Late, "the last durable tick is %s older than the last word; a tick, a sync of %s and a delay of %s are %s",
		v.Lag, v.Sync, v.Late, Tick+v.Sync+v.Late)

	least, most := l.truth(closed)
	fault(closed.FinalCPU < least, "billed %d ns of CPU time; the host had counted %d before the last durable tick", closed.FinalCPU, least)
	fault(closed.FinalCPU > most, "billed %d ns of CPU time; the host can have counted %d when its power was gone", closed.FinalCPU, most)
	v.Unbilled = max(0, time.Duration(last.CPU[closed.VM])-time.Duration(closed.FinalCPU))
	return v
}

// truth is what the host had counted before the last tick of an incarnation was taken, and the most that its one CPU can
// have given to it until the power was gone.
func (l Loss) truth(closed Life) (least, most uint64) {
	for _, w := range l.Words {
		if w.Read <= closed.FinalAt {
			least = uint64(w.CPU[closed.VM])
		}
	}
	since, counted := closed.Start, int64(0) // of a VMM that the host has not spoken of
	if cpu, ok := l.last().CPU[closed.VM]; ok {
		since, counted = l.last().Mono, cpu
	}
	return least, uint64(counted + max(0, l.Killed-since))
}
