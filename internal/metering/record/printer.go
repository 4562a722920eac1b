package record

import (
	"fmt"
	"io"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Printer is a Sink that writes what it is given for people, a line for each thing. Err is the first error of writing;
// nothing is written after it.
type Printer struct {
	Out io.Writer
	Err error
}

func (p *Printer) print(format string, args ...any) {
	if p.Err == nil {
		_, p.Err = fmt.Fprintf(p.Out, format+"\n", args...)
	}
}

// moment is t for people: on the calendar, and on the clock that durations are taken from.
func (p *Printer) moment(t usage.Time) string {
	return fmt.Sprintf("%s (mono %d)", time.Unix(0, t.Wall).UTC().Format("2006-01-02T15:04:05.000000000Z"), t.Mono)
}

// Table is part of Sink.
func (p *Printer) Table(at usage.Time, open []Open) {
	p.print("keyframe at %s, %d incarnations live", p.moment(at), len(open))
	for i := range open {
		o := &open[i]
		p.life("  lives", &o.Life)
		p.print("    next tick %d, %s, last read %s at %s", o.Next, o.State, o.Last, p.moment(o.At))
		p.totals("    used", o.Meter.Totals)
	}
}

func (p *Printer) life(verb string, l *usage.Life) {
	i := l.Incarnation
	p.print("%s: epoch %d, VM %q of %q on host %q, boot %q, process started at tick %d; from %s, %s, baseline %s, limits %+v",
		verb, i.Epoch, i.VM, l.Customer, i.Host, i.Boot, i.StartTicks, p.moment(l.Start), l.State, l.Baseline, l.Limits)
}

func (p *Printer) totals(verb string, t usage.Totals) {
	p.print("%s up to tick %d, %s: %s", verb, t.Next, p.moment(t.At), amountText(t.Amount))
}

// amountText lists what was used; what nobody measured is UNKNOWN.
func amountText(a usage.Amount) string {
	var text string
	for q := range usage.Quantity(usage.Quantities) {
		value := "UNKNOWN"
		if v, ok := a.Known(q); ok {
			value = v.String()
		}
		text += fmt.Sprintf("%s=%s ", q, value)
	}
	return text + "incomplete=" + a.Incomplete.String()
}

// Begin is part of Sink.
func (p *Printer) Begin(l usage.Life) { p.life("begins", &l) }

// Enter is part of Sink.
func (p *Printer) Enter(epoch uint64, at usage.Time, state usage.State) {
	p.print("epoch %d enters %s at %s", epoch, state, p.moment(at))
}

// Sample is part of Sink.
func (p *Printer) Sample(epoch uint64, s usage.Sample) {
	p.print("epoch %d tick %d at %s: %s %s", epoch, s.Seq, p.moment(s.At), s.State, s.Reading)
}

// Thin is part of Sink.
func (p *Printer) Thin(epoch uint64, l usage.Leap) {
	s := l.Last()
	p.print("epoch %d ticks %d to %d as one, from %s to %s: %s %s, used %s",
		epoch, l.First, s.Seq, p.moment(l.From), p.moment(s.At), s.State, s.Reading, amountText(l.Used))
}

// End is part of Sink.
func (p *Printer) End(e usage.End) {
	p.life("ended", &e.Life)
	p.print("  because of %q, last tick %d at %s: %s %s", e.Reason, e.Last.Seq, p.moment(e.Last.At), e.Last.State, e.Last.Reading)
	p.totals("  used", e.Final)
}

// Signed is part of Sink.
func (p *Printer) Signed(s Signature) {
	p.print("record %d signed at %s: hash %x, key %x, signature %x", s.Record, time.Unix(0, s.SignedAt).UTC().Format(time.RFC3339Nano), s.Hash, s.PublicKey, s.Signature)
}

// Lost is part of Mourner.
func (p *Printer) Lost(records uint64) {
	p.print("%d records were lost here before those around them were made coarser", records)
}
