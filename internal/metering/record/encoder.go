package record

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// interval is what two ticks are expected to be apart, in ns. Another costs a few bytes a tick and nothing else.
const interval = 100_000_000

// Encoder makes bodies of records. It keeps the table of incarnations that live, and their meters: a keyframe has them.
// It is for one goroutine.
//
// What a body says is in the table once it is made, whether the log takes it or not. So the log is asked first whether it
// needs a keyframe. Of a body that it refuses, the next keyframe has what was used; a tick must not be appended behind
// that one any more, and all others may be.
type Encoder struct {
	// Found, where it is set, is told what the meters could not believe of a tick.
	Found func(epoch uint64, f usage.Finding)

	table table
	at    usage.Time // of the keyframe or tick before
	found []usage.Finding
}

// Restore puts an incarnation into the table that an earlier metald left, before the first Keyframe. Its Next may be
// beyond its meter's: the ticks between were not taken.
func (e *Encoder) Restore(o Open) {
	e.table.put(&entry{Open: o})
}

// Keyframe appends the table to dst.
func (e *Encoder) Keyframe(dst []byte, at usage.Time) []byte {
	w := writer{dst}
	w.byte(version)
	w.time(at, usage.Time{})
	w.uint(uint64(len(e.table)))
	var before names
	for _, en := range e.table {
		w.open(&en.Open, at, &before)
		en.coding.from(&en.Open)
	}
	e.at = at
	return w.b
}

func (w *writer) open(o *Open, at usage.Time, before *names) {
	w.life(&o.Life, at, before)
	w.meter(&o.Meter, at)
	w.uint(o.Next)
	w.time(o.At, at)
	w.byte(byte(o.State))
	w.set(o.Last.Known())
	for f := range usage.Field(usage.Fields) {
		if v, ok := o.Last.Value(f); ok {
			believed, _ := o.Meter.Last.Value(f)
			w.diff(f, v-believed)
		}
	}
}

// Begin adds an incarnation to the table.
func (e *Encoder) Begin(dst []byte, l usage.Life) []byte {
	en := &entry{Open: begun(l)}
	en.coding.from(&en.Open)
	e.table.put(en)
	w := writer{dst}
	w.byte(version)
	w.life(&l, usage.Time{}, &names{})
	return w.b
}

// begun is a life of which nothing was read yet.
func begun(l usage.Life) Open {
	return Open{Life: l, Meter: *l.Meter(), At: l.Start, State: l.State}
}

// Enter notes a state that an incarnation enters; its ticks have it from then on.
func (e *Encoder) Enter(dst []byte, epoch uint64, at usage.Time, state usage.State) []byte {
	if en := e.table.get(epoch); en != nil {
		en.Meter.Enter(at, state, nil)
		en.State = state
	}
	w := writer{dst}
	w.byte(version)
	w.uint(epoch)
	w.time(at, usage.Time{})
	w.byte(byte(state))
	return w.b
}

// End takes an incarnation out of the table.
func (e *Encoder) End(dst []byte, end usage.End) []byte {
	e.table.remove(end.Life.Incarnation.Epoch)
	w := writer{dst}
	w.byte(version)
	w.life(&end.Life, usage.Time{}, &names{})
	w.sample(end.Last, end.Life.Start)
	w.totals(end.Final, end.Life.Start)
	w.text(end.Reason)
	return w.b
}

// Signed appends a signature of the log's head.
func (e *Encoder) Signed(dst []byte, s Signature) []byte {
	w := writer{dst}
	w.byte(version)
	w.uint(s.Record)
	w.b = append(w.b, s.Hash[:]...)
	w.int(s.SignedAt)
	w.bytes(s.PublicKey)
	w.bytes(s.Signature)
	return w.b
}

// Account returns an incarnation of the table and its meter, which has all that the records so far say of it. Both are
// the Encoder's, good until its next call.
func (e *Encoder) Account(epoch uint64) (*usage.Life, *usage.Meter) {
	en := e.table.get(epoch)
	if en == nil {
		return nil, nil
	}
	return &en.Life, &en.Meter
}

// Accounts returns copies of all that are in the table.
func (e *Encoder) Accounts() []usage.Account {
	list := make([]usage.Account, len(e.table))
	for i, en := range e.table {
		list[i] = usage.Account{Life: en.Life, Meter: en.Meter}
	}
	return list
}
