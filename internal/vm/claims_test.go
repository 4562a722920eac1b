package vm

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// holders is the naive model of one volume: who has it, and whether read-only.
type holders map[types.VMID]bool

// refusal is the kind of error that a claim of the volume must get.
func (h holders) refusal(id types.VMID, readOnly bool) (kind types.Kind, refused bool) {
	if _, twice := h[id]; twice {
		return types.KindInvalid, true
	}
	for _, othersReadOnly := range h {
		if !readOnly || !othersReadOnly {
			return types.KindPrecondition, true
		}
	}
	return 0, false
}

func TestClaims(t *testing.T) {
	files := []store.Volume{
		{Device: 1, Inode: 1, Born: 1},
		{Device: 2, Inode: 1, Born: 1}, // the same numbers on another filesystem
		{Device: 1, Inode: 2, Born: 1},
		{Device: 1, Inode: 1, Born: 2}, // a later file that got the inode number
		{Device: 1, Inode: 1},
	}
	ids := []types.VMID{"a", "b", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		c := claims{}
		model := make([]holders, len(files))
		for i := range model {
			model[i] = holders{}
		}
		draw := func(t *rapid.T) (int, types.VMID) {
			return rapid.IntRange(0, len(files)-1).Draw(t, "file"), rapid.SampledFrom(ids).Draw(t, "VM")
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				i, id := draw(t)
				v := files[i]
				v.ReadOnly = rapid.Bool().Draw(t, "read-only")
				kind, refused := model[i].refusal(id, v.ReadOnly)
				err := c.take(id, v)
				switch {
				case refused && (err == nil || err.Kind != kind):
					t.Fatalf("%s takes %+v while %v have it: %v, want kind %d", id, v, model[i], err, kind)
				case !refused && err != nil:
					t.Fatalf("%s takes %+v while %v have it: %v", id, v, model[i], err)
				case !refused:
					model[i][id] = v.ReadOnly
				}
			},
			"give": func(t *rapid.T) {
				i, id := draw(t)
				v := files[i]
				v.ReadOnly = model[i][id]
				c.give(id, v) // by one who has none as well
				delete(model[i], id)
			},
			"": func(t *rapid.T) { checkClaims(t, c, files, ids, model) },
		})
		for i, h := range model {
			for id, readOnly := range h {
				v := files[i]
				v.ReadOnly = readOnly
				c.give(id, v)
			}
		}
		if len(c) != 0 {
			t.Fatalf("all were given back, and %v is left", c)
		}
	})
}

func checkClaims(t *rapid.T, c claims, files []store.Volume, ids []types.VMID, model []holders) {
	t.Helper()
	for _, held := range c {
		if held.writer != "" && len(held.readers) > 0 {
			t.Fatalf("%s writes while %v read", held.writer, held.readers)
		}
	}
	for i, v := range files {
		for _, id := range ids {
			readOnly, has := model[i][id]
			v.ReadOnly = false
			if got := c.holds(id, v); got != (has && !readOnly) {
				t.Fatalf("%s holds %+v for writing: %t; have it: %v", id, v, got, model[i])
			}
			v.ReadOnly = true
			if got := c.holds(id, v); got != has {
				t.Fatalf("%s holds %+v for reading: %t; have it: %v", id, v, got, model[i])
			}
		}
	}
}

func TestClaimsSayWhoHasIt(t *testing.T) {
	c := claims{}
	v := store.Volume{Device: 1, Inode: 1}
	if err := c.take("vm-writer", v); err != nil {
		t.Fatal(err)
	}
	if err := c.take("vm-other", v); err == nil || !strings.Contains(err.Error(), "vm-writer") {
		t.Errorf("%v does not name the writer", err)
	}
}

func TestClaimVolumesIsAllOrNothing(t *testing.T) {
	rw := func(disk int, inode uint64) store.Volume { return store.Volume{Disk: disk, Device: 1, Inode: inode} }
	for _, tc := range []struct {
		name  string
		want  []store.Volume
		kind  types.Kind
		field string
	}{
		{"the last is taken", []store.Volume{rw(0, 1), rw(2, 2), rw(5, 9)}, types.KindPrecondition, "config.storage[5].path"},
		{"one is named twice", []store.Volume{rw(0, 1), rw(1, 2), rw(3, 1)}, types.KindInvalid, "config.storage[3].path"},
		{"the first is taken", []store.Volume{rw(4, 9), rw(5, 1)}, types.KindPrecondition, "config.storage[4].path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &Manager{claims: claims{}}
			if err := m.claimVolumes("theirs", []store.Volume{rw(0, 9)}); err != nil {
				t.Fatal(err)
			}
			err := m.claimVolumes("mine", tc.want)
			var refused *types.Error
			if !errors.As(err, &refused) || refused.Kind != tc.kind || refused.Field != tc.field {
				t.Errorf("%v, want kind %d about %s", err, tc.kind, tc.field)
			}
			m.releaseVolumes("theirs", []store.Volume{rw(0, 9)})
			if len(m.claims) != 0 {
				t.Errorf("after a refusal %v is left", m.claims)
			}
		})
	}
}

func TestStillHeld(t *testing.T) {
	held := store.Volume{Disk: 1, Device: 1, Inode: 7, Born: 5}
	m := &Manager{claims: claims{}}
	if err := m.claimVolumes("vm", []store.Volume{held}); err != nil {
		t.Fatal(err)
	}
	if err := m.stillHeld("vm", []store.Volume{held}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*store.Volume){
		"another inode":                    func(v *store.Volume) { v.Inode++ },
		"another device":                   func(v *store.Volume) { v.Device++ },
		"a later file that got the number": func(v *store.Volume) { v.Born++ },
	} {
		v := held
		change(&v)
		err := m.stillHeld("vm", []store.Volume{v})
		var refused *types.Error
		if !errors.As(err, &refused) || refused.Kind != types.KindPrecondition || refused.Field != "config.storage[1].path" {
			t.Errorf("%s: %v, want KindPrecondition about the disk", name, err)
		}
	}
	if err := m.stillHeld("other", []store.Volume{held}); err == nil {
		t.Error("another VM holds it too")
	}
}
