package main

import (
	"fmt"
	"io"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// printer prints what records say.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

var typeNames = map[byte]string{
	record.TypeKeyframe: "keyframe", record.TypeTick: "tick", record.TypeBegin: "begin", record.TypeEnter: "enter",
	record.TypeEnd: "end", record.TypeThin: "thin", record.TypeSigned: "signed",
}

func (p *printer) entry(e wal.Entry) {
	if e.Lost != nil {
		p.printf("lost %s\n", e.Lost)
		return
	}
	name, ok := typeNames[e.Type]
	if !ok {
		name = fmt.Sprintf("type %d", e.Type)
	}
	p.printf("%d %s", e.Seq, name)
	if e.First != e.Seq {
		p.printf(" first=%d level=%d", e.First, e.Level)
	}
	if e.Repaired {
		p.printf(" repaired")
	}
	p.printf(" bytes=%d hash=%x\n", len(e.Body), e.Hash)
}

func at(t usage.Time) string {
	return fmt.Sprintf("%s (monotonic %d)", time.Unix(0, t.Wall).UTC().Format(time.RFC3339Nano), t.Mono)
}

func (p *printer) life(l usage.Life) {
	i := l.Incarnation
	p.printf("  epoch %d: VM %s of %s on %s, boot %s, start ticks %d, %s from %s, baseline %s, limits %+v\n",
		i.Epoch, i.VM, l.Customer, i.Host, i.Boot, i.StartTicks, l.State, at(l.Start), l.Baseline, l.Limits)
}

// Table prints a keyframe.
func (p *printer) Table(t usage.Time, open []record.Open) {
	p.printf("  at %s, %d live\n", at(t), len(open))
	for i := range open {
		o := &open[i]
		p.life(o.Life)
		p.printf("    next tick %d, %s, last %s, used %s\n", o.Next, o.State, o.Last, amount(o.Meter.Totals.Amount))
	}
}

// Begin prints that an incarnation begins.
func (p *printer) Begin(l usage.Life) { p.life(l) }

// Enter prints that one enters a state.
func (p *printer) Enter(epoch uint64, t usage.Time, state usage.State) {
	p.printf("  epoch %d: %s from %s\n", epoch, state, at(t))
}

// Sample prints a tick of one.
func (p *printer) Sample(epoch uint64, s usage.Sample) {
	p.printf("  epoch %d: tick %d at %s, %s %s\n", epoch, s.Seq, at(s.At), s.State, s.Reading)
}

// Thin prints many ticks of one, as one.
func (p *printer) Thin(epoch uint64, l usage.Leap) {
	last := l.Last()
	p.printf("  epoch %d: ticks %d to %d, until %s, %s %s, used %s\n", epoch, l.First, last.Seq, at(last.At), last.State, last.Reading, amount(l.Used))
}

// End prints how one ended.
func (p *printer) End(e usage.End) {
	p.life(e.Life)
	p.printf("    ended at %s, tick %d: %s, used %s\n", at(e.Last.At), e.Last.Seq, e.Reason, amount(e.Final.Amount))
}

// Signed prints a signature of the log's head.
func (p *printer) Signed(s record.Signature) {
	p.printf("  record %d, hash %x, signed %s by %x: %x\n", s.Record, s.Hash, time.Unix(0, s.SignedAt).UTC().Format(time.RFC3339Nano), s.PublicKey, s.Signature)
}

// amount lists what is known.
func amount(a usage.Amount) string {
	text := ""
	for q := range usage.Quantity(usage.Quantities) {
		if v, ok := a.Known(q); ok && !v.IsZero() {
			text += fmt.Sprintf(" %s=%s", q, v)
		}
	}
	return "{" + text + " }"
}
