package vm

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

var shownStates = []lifecycle.State{lifecycle.Created, lifecycle.Running, lifecycle.Paused, lifecycle.Shutdown}

// naiveIndex is an index that is a list of what was shown.
type naiveIndex struct {
	index   index
	entries map[uint64]*entry
	shown   map[uint64]lifecycle.State
}

func newNaiveIndex() *naiveIndex {
	return &naiveIndex{entries: map[uint64]*entry{}, shown: map[uint64]lifecycle.State{}}
}

func (n *naiveIndex) show(e *entry, state lifecycle.State) {
	n.index.show(e, &Info{ID: e.id, Seq: e.rec.Seq, State: state})
}

func (n *naiveIndex) create(seq uint64, state lifecycle.State) {
	if n.entries[seq] != nil {
		return
	}
	e := &entry{id: types.VMID(fmt.Sprint("vm-", seq)), rec: store.Record{Seq: seq}}
	n.entries[seq], n.shown[seq] = e, state
	n.show(e, state)
	n.index.add(e)
}

func (n *naiveIndex) change(seq uint64, state lifecycle.State) {
	n.show(n.entries[seq], state)
	n.shown[seq] = state
}

func (n *naiveIndex) delete(seq uint64) {
	e := n.entries[seq]
	n.index.remove(e)
	n.index.remove(e)             // nothing is left to remove
	n.show(e, lifecycle.Shutdown) // a VMM's end that is noticed late
	delete(n.entries, seq)
	delete(n.shown, seq)
}

// matching is every Seq in order whose state is one of states.
func (n *naiveIndex) matching(states []lifecycle.State) []uint64 {
	var seqs []uint64
	for seq, state := range n.shown {
		if states == nil || slices.Contains(states, state) {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

func (n *naiveIndex) page(q ListQuery) (seqs []uint64, next uint64, total int) {
	all := n.matching(q.States)
	total = len(all)
	all = slices.DeleteFunc(all, func(seq uint64) bool { return seq <= q.After })
	if len(all) > q.Limit {
		all = all[:q.Limit]
		next = all[q.Limit-1]
	}
	return all, next, total
}

func drawStates(t *rapid.T) []lifecycle.State {
	if rapid.Bool().Draw(t, "all states") {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(shownStates), 0, 4).Draw(t, "states")
}

func drawOne(t *rapid.T, n *naiveIndex) uint64 {
	if len(n.shown) == 0 {
		t.Skip("no VM")
	}
	return rapid.SampledFrom(n.matching(nil)).Draw(t, "seq")
}

func (n *naiveIndex) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"create": func(t *rapid.T) { // out of order, as Restore does
			n.create(rapid.Uint64Range(1, 60).Draw(t, "seq"), rapid.SampledFrom(shownStates).Draw(t, "state"))
		},
		"change": func(t *rapid.T) { n.change(drawOne(t, n), rapid.SampledFrom(shownStates).Draw(t, "state")) },
		"delete": func(t *rapid.T) { n.delete(drawOne(t, n)) },
	}
}

func TestIndexPages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNaiveIndex()
		actions := n.actions()
		actions[""] = func(t *rapid.T) {
			q := ListQuery{
				States: drawStates(t),
				After:  rapid.Uint64Range(0, 61).Draw(t, "after"),
				Limit:  rapid.IntRange(1, 20).Draw(t, "limit"),
			}
			seqs, next, total := n.page(q)
			got := n.index.page(q)
			if !slices.Equal(seqsOf(got), seqs) || got.Next != next || got.Total != total {
				t.Fatalf("%+v: %d, next %d of %d; want %d, next %d of %d", q, seqsOf(got), got.Next, got.Total, seqs, next, total)
			}
			for _, info := range got.VMs {
				if info.State != n.shown[info.Seq] {
					t.Fatalf("VM %d is %s, want %s", info.Seq, info.State, n.shown[info.Seq])
				}
			}
		}
		t.Repeat(actions)
	})
}

func seqsOf(p ListPage) []uint64 {
	var seqs []uint64
	for _, info := range p.VMs {
		seqs = append(seqs, info.Seq)
	}
	return seqs
}

// A walk from page to page sees every VM that was there all along, once and in order, whatever comes and goes
// between the pages.
func TestIndexWalkSurvivesChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNaiveIndex()
		for _, seq := range rapid.SliceOfDistinct(rapid.Uint64Range(1, 60), rapid.ID[uint64]).Draw(t, "VMs") {
			n.create(seq, lifecycle.Created)
		}
		stayed := map[uint64]bool{}
		for seq := range n.shown {
			stayed[seq] = true
		}
		actions := n.actions()
		var walked []uint64
		for after, more := uint64(0), true; more; {
			page := n.index.page(ListQuery{After: after, Limit: rapid.IntRange(1, 7).Draw(t, "limit")})
			walked = append(walked, seqsOf(page)...)
			after, more = page.Next, page.Next != 0
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				if rapid.Bool().Draw(t, "insert") || len(n.shown) == 0 {
					actions["create"](t)
					continue
				}
				gone := drawOne(t, n)
				n.delete(gone)
				delete(stayed, gone)
			}
		}
		if !slices.IsSorted(walked) || len(slices.Compact(slices.Clone(walked))) != len(walked) {
			t.Fatalf("not in order, or twice: %d", walked)
		}
		for seq := range stayed {
			if !slices.Contains(walked, seq) {
				t.Fatalf("VM %d was there all along; the walk saw %d", seq, walked)
			}
		}
	})
}

// A page and its total are of one moment, also while VMs change.
func TestIndexTotalsWhileVMsChange(t *testing.T) {
	n := newNaiveIndex()
	const vms = 20
	for seq := range uint64(vms) {
		n.create(seq+1, lifecycle.Running)
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range uint64(4) {
		writers.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				e := n.entries[1+w*5+i%5]
				n.show(e, shownStates[i%4])
				if i%3 == 0 {
					n.index.remove(e)
					n.index.add(e)
				}
			}
		})
	}
	for range 20_000 {
		states := []lifecycle.State{lifecycle.Running, lifecycle.Paused}
		page := n.index.page(ListQuery{States: states, Limit: vms})
		if len(page.VMs) != page.Total {
			t.Errorf("%d VMs on the only page, %d in total", len(page.VMs), page.Total)
			break
		}
	}
	close(stop)
	writers.Wait()
}
