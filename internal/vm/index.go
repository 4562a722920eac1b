package vm

import (
	"slices"
	"sort"
	"sync"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// index is every VM that may be seen, ordered by creation, and how many there are in each state. What its VMs are
// changes under its lock, so that a page and its total are of one moment.
type index struct {
	mu     sync.RWMutex
	order  []*entry
	seqs   []uint64 // of order, so that a search touches one array
	counts [lifecycle.Gone + 1]int
}

// show makes info what readers see of a VM, in the index or not.
func (x *index) show(e *entry, info *Info) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := e.snapshot.Swap(info)
	if _, listed := x.find(e); listed {
		x.counts[old.State]--
		x.counts[info.State]++
	}
}

// add makes a VM that was shown once part of what is listed.
func (x *index) add(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	info := e.snapshot.Load()
	i := x.after(info.Seq)
	x.order = slices.Insert(x.order, i, e)
	x.seqs = slices.Insert(x.seqs, i, info.Seq)
	x.counts[info.State]++
}

func (x *index) remove(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i, listed := x.find(e)
	if !listed {
		return
	}
	x.counts[e.snapshot.Load().State]--
	x.order = slices.Delete(x.order, i, i+1)
	x.seqs = slices.Delete(x.seqs, i, i+1)
}

// find is where e is listed.
func (x *index) find(e *entry) (i int, listed bool) {
	i = x.after(e.rec.Seq) - 1
	return i, i >= 0 && x.order[i] == e
}

// after is the position of the first VM whose Seq is larger than seq.
func (x *index) after(seq uint64) int {
	return sort.Search(len(x.seqs), func(i int) bool { return x.seqs[i] > seq })
}

// page reads snapshots only; the lock is held for as long as it takes to walk one page.
func (x *index) page(q ListQuery) ListPage {
	x.mu.RLock()
	defer x.mu.RUnlock()
	page := ListPage{Total: x.total(q.States), VMs: make([]Info, 0, min(q.Limit, len(x.order)))}
	for i := x.after(q.After); i < len(x.order); i++ {
		info := x.order[i].snapshot.Load()
		if q.States != nil && !slices.Contains(q.States, info.State) {
			continue
		}
		if len(page.VMs) == q.Limit {
			page.Next = page.VMs[q.Limit-1].Seq
			break
		}
		page.VMs = append(page.VMs, *info)
	}
	return page
}

func (x *index) total(states []lifecycle.State) int {
	if states == nil {
		return len(x.order)
	}
	n := 0
	for state, count := range x.counts {
		if slices.Contains(states, lifecycle.State(state)) {
			n += count
		}
	}
	return n
}
