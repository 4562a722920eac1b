package record

import (
	"fmt"
	"math"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// body is one record of a history.
type body struct {
	typ   byte
	bytes []byte
}

// event is what a sink is given, in a form that compares with ==.
type event struct {
	what   string
	epoch  uint64
	sample usage.Sample
	life   usage.Life
	meter  usage.Meter
	end    usage.End
	leap   usage.Leap
	text   string
}

// events is a sink that keeps what it is given.
type events struct{ list []event }

func (e *events) Table(at usage.Time, open []Open) {
	e.list = append(e.list, event{what: "table", sample: usage.Sample{At: at}, epoch: uint64(len(open))})
	for _, o := range open {
		e.list = append(e.list, opened(o))
	}
}

func opened(o Open) event {
	return event{
		what: "open", epoch: o.Life.Incarnation.Epoch, life: o.Life, meter: o.Meter,
		sample: usage.Sample{Seq: o.Next, At: o.At, State: o.State, Reading: o.Last},
	}
}

func (e *events) Begin(l usage.Life) {
	e.list = append(e.list, event{what: "begin", epoch: l.Incarnation.Epoch, life: l})
}

func (e *events) Enter(epoch uint64, at usage.Time, state usage.State) {
	e.list = append(e.list, event{what: "enter", epoch: epoch, sample: usage.Sample{At: at, State: state}})
}

func (e *events) Sample(epoch uint64, s usage.Sample) {
	e.list = append(e.list, event{what: "sample", epoch: epoch, sample: s})
}

func (e *events) End(end usage.End) {
	e.list = append(e.list, event{what: "end", epoch: end.Life.Incarnation.Epoch, end: end})
}

func (e *events) Signed(s Signature) {
	e.list = append(e.list, event{what: "signed", text: fmt.Sprintf("%d %x %d %q %q", s.Record, s.Hash, s.SignedAt, s.PublicKey, s.Signature)})
}

// alive is an incarnation of a history, as its author knows it.
type alive struct {
	life   usage.Life
	meter  *usage.Meter
	next   uint64
	at     usage.Time
	state  usage.State
	last   usage.Reading
	values [usage.Fields]uint64
}

// author makes up what a host goes through. Each record comes with what a sink has to be given of it.
type author struct {
	enc    Encoder
	epoch  uint64
	at     usage.Time
	live   []*alive
	bodies []body
	want   [][]event
	honest bool // readings are of a machine that nobody doubts
}

func (a *author) add(typ byte, b []byte, want ...event) {
	a.bodies = append(a.bodies, body{typ, b})
	a.want = append(a.want, want)
}

func (a *author) pass(t *rapid.T) {
	ns := int64(interval)
	if rapid.IntRange(0, 3).Draw(t, "late") == 0 {
		ns = rapid.SampledFrom([]int64{1, interval - 1, 10 * interval, 300 * interval}).Draw(t, "ns")
	}
	a.at.Mono += ns
	a.at.Wall += ns
	if rapid.IntRange(0, 9).Draw(t, "stepped") == 0 {
		a.at.Wall += rapid.Int64Range(-1e12, 1e12).Draw(t, "step")
	}
}

func drawTime(t *rapid.T) usage.Time {
	return usage.Time{Mono: rapid.Int64Range(0, 1<<50).Draw(t, "mono"), Wall: rapid.Int64Range(0, 1<<61).Draw(t, "wall")}
}

func drawState(t *rapid.T) usage.State {
	return rapid.SampledFrom([]usage.State{usage.Created, usage.Booting, usage.Running, usage.Running, usage.Paused, usage.Stopping}).Draw(t, "state")
}

func (a *author) begin(t *rapid.T) {
	a.epoch += rapid.Uint64Range(1, 3).Draw(t, "epochs")
	l := usage.Life{
		Incarnation: usage.Incarnation{
			Host: "host-1", VM: rapid.SampledFrom([]string{"vm-a", "vm-b", ""}).Draw(t, "vm"), Epoch: a.epoch,
			Boot: rapid.SampledFrom([]string{"boot-1", "boot-2"}).Draw(t, "boot"), StartTicks: rapid.Uint64().Draw(t, "ticks"),
		},
		Customer: rapid.SampledFrom([]string{"acme", "umbrella"}).Draw(t, "customer"),
		Start:    a.at, State: drawState(t),
	}
	for f := range usage.Field(usage.Counters) {
		if rapid.IntRange(0, 5).Draw(t, "baseline") > 0 {
			l.Baseline.Put(f, 0)
		}
	}
	if rapid.Bool().Draw(t, "limited") {
		l.Limits = usage.Limits{CPUMilli: 2000, MemoryBytes: 1 << 40, TickNs: interval}
	}
	a.live = append(a.live, &alive{life: l, meter: l.Meter(), at: l.Start, state: l.State})
	a.add(TypeBegin, a.enc.Begin(nil, l), event{what: "begin", epoch: a.epoch, life: l})
}

func (a *author) enter(t *rapid.T) {
	v := a.live[rapid.IntRange(0, len(a.live)-1).Draw(t, "which")]
	state := drawState(t)
	v.state = state
	v.meter.Enter(a.at, state, nil)
	epoch := v.life.Incarnation.Epoch
	a.add(TypeEnter, a.enc.Enter(nil, epoch, a.at, state), event{what: "enter", epoch: epoch, sample: usage.Sample{At: a.at, State: state}})
}

// read draws the reading of v at the next tick.
func (a *author) read(t *rapid.T, v *alive) (r usage.Reading) {
	busy := rapid.IntRange(0, 2).Draw(t, "busy")
	for f := range usage.Field(usage.Fields) {
		switch {
		case busy == 0:
		case !a.honest && rapid.IntRange(0, 50).Draw(t, "absurd") == 0:
			v.values[f] = rapid.Uint64().Draw(t, "value")
		case !f.IsCounter():
			v.values[f] = rapid.Uint64Range(0, 1<<20).Draw(t, "pages") << 12
		case f == usage.CPU:
			v.values[f] += rapid.Uint64Range(0, interval/1000).Draw(t, "used")
		default:
			v.values[f] += rapid.Uint64Range(0, 1<<16).Draw(t, "moved")
		}
		disk := f == usage.DiskRead || f == usage.DiskWritten
		if !disk && rapid.IntRange(0, 20).Draw(t, "unknown") > 0 || disk && rapid.IntRange(0, 3).Draw(t, "asked") == 0 {
			r.Put(f, v.values[f])
		}
	}
	return r
}

func (a *author) tick(t *rapid.T) {
	a.pass(t)
	missed := uint64(0)
	if rapid.IntRange(0, 5).Draw(t, "missed") == 0 {
		missed = rapid.Uint64Range(0, 1000).Draw(t, "ticks")
	}
	var lines []Line
	var want []event
	for _, v := range a.live {
		var r usage.Reading
		if rapid.IntRange(0, 10).Draw(t, "read") > 0 {
			r = a.read(t, v)
			lines = append(lines, Line{v.life.Incarnation.Epoch, r})
		}
		if v.next > 0 {
			v.next += missed
		}
		s := usage.Sample{Seq: v.next, At: a.at, State: v.state, Reading: r}
		v.next, v.at, v.last = v.next+1, a.at, r
		v.meter.Add(s, nil, nil)
		want = append(want, event{what: "sample", epoch: v.life.Incarnation.Epoch, sample: s})
	}
	a.add(TypeTick, a.enc.Tick(nil, a.at, missed, lines), want...)
}

func (a *author) keyframe() {
	want := []event{{what: "table", sample: usage.Sample{At: a.at}, epoch: uint64(len(a.live))}}
	for _, v := range a.live {
		want = append(want, opened(v.open()))
	}
	a.add(TypeKeyframe, a.enc.Keyframe(nil, a.at), want...)
}

func (v *alive) open() Open {
	return Open{Life: v.life, Meter: *v.meter, Next: v.next, At: v.at, State: v.state, Last: v.last}
}

// restart is another metald: it knows what its ledger kept, and goes on where ticks were not taken.
func (a *author) restart(t *rapid.T) {
	a.enc = Encoder{}
	for _, v := range a.live {
		o := OpenOf(usage.Account{Life: v.life, Meter: *v.meter})
		o.Next += rapid.Uint64Range(0, 100).Draw(t, "away")
		v.next, v.at, v.last, v.state = o.Next, o.At, o.Last, o.State
		a.enc.Restore(o)
	}
	a.pass(t)
	a.keyframe()
}

func (a *author) end(t *rapid.T) {
	i := rapid.IntRange(0, len(a.live)-1).Draw(t, "which")
	v := a.live[i]
	a.live = append(a.live[:i:i], a.live[i+1:]...)
	e := usage.End{Life: v.life, Reason: "guest-shutdown"}
	e.Last = usage.Sample{Seq: v.next, At: a.at, State: usage.Stopped, Reading: a.read(t, v)}
	v.meter.Add(e.Last, nil, nil)
	e.Final = v.meter.Totals
	a.add(TypeEnd, a.enc.End(nil, e), event{what: "end", epoch: v.life.Incarnation.Epoch, end: e})
}

func (a *author) sign(t *rapid.T) {
	s := Signature{Record: rapid.Uint64().Draw(t, "record"), SignedAt: math.MaxInt64, PublicKey: []byte("key"), Signature: []byte{1, 2, 3}}
	s.Hash[0], s.Hash[31] = 1, 255
	var e events
	e.Signed(s)
	a.add(TypeSigned, a.enc.Signed(nil, s), e.list...)
}

// step does one thing that can happen.
func (a *author) step(t *rapid.T) {
	what := rapid.IntRange(0, 19).Draw(t, "step")
	switch {
	case len(a.live) == 0 || what == 0 && len(a.live) < 12:
		a.begin(t)
	case what == 1:
		a.enter(t)
	case what == 2:
		a.end(t)
	case what == 3:
		a.keyframe()
	case what == 4:
		a.restart(t)
	case what == 5:
		a.sign(t)
	default:
		a.tick(t)
	}
}

// write makes a history of at most n records behind a keyframe.
func write(t *rapid.T, n int, honest bool) *author {
	a := &author{at: drawTime(t), honest: honest}
	a.keyframe()
	for range rapid.IntRange(0, n).Draw(t, "records") {
		a.step(t)
	}
	return a
}
