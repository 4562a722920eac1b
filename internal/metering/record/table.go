package record

import (
	"cmp"
	"slices"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// coding is what both sides remember of an incarnation from one tick to the next.
type coding struct {
	known  usage.Set            // of the last tick
	moved  usage.Set            // fields that changed when it last had a row
	values [usage.Fields]uint64 // the last that was seen of each field, even if not at the last tick
}

// from begins anew at a keyframe, from what it says.
func (c *coding) from(o *Open) {
	*c = coding{known: o.Last.Known()}
	for f := range usage.Field(usage.Fields) {
		c.values[f], _ = o.Meter.Last.Value(f)
		if v, ok := o.Last.Value(f); ok {
			c.values[f] = v
		}
	}
}

// reading is what was read at the last tick.
func (c *coding) reading() (r usage.Reading) {
	for f := range usage.Field(usage.Fields) {
		if c.known.Has(f) {
			r.Put(f, c.values[f])
		}
	}
	return r
}

// entry is an incarnation in the table.
type entry struct {
	Open
	coding
	now usage.Reading // of the tick that is being written
}

// table is the incarnations that live, in order of epoch.
type table []*entry

func (t table) find(epoch uint64) (int, bool) {
	return slices.BinarySearchFunc(t, epoch, func(e *entry, epoch uint64) int {
		return cmp.Compare(e.Life.Incarnation.Epoch, epoch)
	})
}

// get returns nil where there is none.
func (t table) get(epoch uint64) *entry {
	if i, ok := t.find(epoch); ok {
		return t[i]
	}
	return nil
}

func (t *table) put(e *entry) {
	i, ok := t.find(e.Life.Incarnation.Epoch)
	if ok {
		(*t)[i] = e
		return
	}
	*t = slices.Insert(*t, i, e)
}

func (t *table) remove(epoch uint64) {
	if i, ok := t.find(epoch); ok {
		*t = slices.Delete(*t, i, i+1)
	}
}

// skip is how many ticks of o were not taken, if missed were not taken of those that lived: one that begins has had none.
func (o *Open) skip(missed uint64) {
	if o.Next > 0 {
		o.Next += missed
	}
}
