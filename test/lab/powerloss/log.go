package powerloss

import (
	"fmt"
	"maps"
	"slices"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// ReadLog reads the whole log in a directory that no metald writes.
func ReadLog(dir string) (Log, error) {
	report, err := wal.Verify(dir)
	if err != nil {
		return Log{}, err
	}
	r := reader{log: Log{Records: report.Records, Last: report.Last}, lives: map[uint64]*life{}}
	if !report.OK() {
		r.bad("lost %v, broken %v, unreadable %v", report.Lost, report.Broken, report.Unreadable)
	}
	if err := wal.Walk(dir, r.entry); err != nil {
		return Log{}, err
	}
	for _, epoch := range slices.Sorted(maps.Keys(r.lives)) {
		r.log.Lives = append(r.log.Lives, r.lives[epoch].said())
	}
	return r.log, nil
}

// reader sums up each life by itself.
type reader struct {
	log     Log
	decoder record.Decoder
	lives   map[uint64]*life
}

type life struct {
	life  usage.Life
	meter *usage.Meter
	end   *usage.End
}

func (r *reader) bad(format string, args ...any) {
	r.log.Bad = append(r.log.Bad, fmt.Sprintf(format, args...))
}

func (r *reader) entry(e wal.Entry) error {
	if e.Lost != nil {
		r.decoder.Lost()
		return nil
	}
	if err := r.decoder.Decode(e.Type, e.Body, r); err != nil {
		r.bad("record %d: %v", e.Seq, err)
	}
	return nil
}

// Table is checked against what the ticks say: none may be missing.
func (r *reader) Table(_ usage.Time, open []record.Open) {
	for _, o := range open {
		l := r.lives[o.Life.Incarnation.Epoch]
		if l == nil || l.end != nil || l.meter.Totals.Of[usage.CPU] != o.Meter.Totals.Of[usage.CPU] {
			r.bad("a keyframe has epoch %d of %s, and the records before it do not say so", o.Life.Incarnation.Epoch, o.Life.Incarnation.VM)
		}
	}
}

func (r *reader) Begin(l usage.Life) {
	if r.lives[l.Incarnation.Epoch] != nil {
		r.bad("epoch %d begins twice", l.Incarnation.Epoch)
		return
	}
	r.lives[l.Incarnation.Epoch] = &life{life: l, meter: l.Meter()}
}

// open is a life that is begun and not ended.
func (r *reader) open(epoch uint64, what string) *life {
	l := r.lives[epoch]
	if l == nil || l.end != nil {
		r.bad("%s of epoch %d, which does not live", what, epoch)
		return nil
	}
	return l
}

func nowhere(usage.Span) {}

func (r *reader) Enter(epoch uint64, at usage.Time, state usage.State) {
	if l := r.open(epoch, "a state"); l != nil {
		l.meter.Enter(at, state, nowhere)
	}
}

func (r *reader) Sample(epoch uint64, s usage.Sample) {
	if l := r.open(epoch, "a tick"); l != nil {
		r.found(epoch, l.meter.Add(s, nowhere, nil))
	}
}

func (r *reader) Thin(epoch uint64, leap usage.Leap) {
	if l := r.open(epoch, "a thinned tick"); l != nil {
		r.found(epoch, l.meter.Leap(leap, nowhere, nil))
	}
}

func (r *reader) End(e usage.End) {
	if l := r.open(e.Life.Incarnation.Epoch, "an end"); l != nil {
		l.end = &e
	}
}

func (r *reader) Signed(record.Signature) {}

func (r *reader) found(epoch uint64, all []usage.Finding) {
	for _, f := range all {
		if f.Quarantined() {
			r.bad("epoch %d: %s", epoch, f)
		}
	}
}

func (l *life) said() Life {
	said := Life{
		VM: l.life.Incarnation.VM, Boot: l.life.Incarnation.Boot, Epoch: l.life.Incarnation.Epoch, Start: l.life.Start.Mono,
		At: l.meter.Totals.At.Mono, Ticks: l.meter.Totals.Next, CPU: l.meter.Totals.Of[usage.CPU].Lo,
	}
	if l.end != nil {
		said.Ended, said.Reason = true, l.end.Reason
		said.FinalAt, said.FinalTicks, said.FinalCPU = l.end.Final.At.Mono, l.end.Final.Next, l.end.Final.Of[usage.CPU].Lo
	}
	return said
}
