package vm

import (
	"slices"
	"sort"
	"sync"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// index is every VM that may be seen, ordered by creation, and how many there are in each state.
type index struct {
	mu     sync.RWMutex
	order  []*entry
	seqs   []uint64 // of order, so that a search touches one array
	counts [lifecycle.Gone + 1]int
}

// show makes info what readers see of a VM, in one step with the counts and, the first time, with the order.
func (x *index) show(e *entry, info *Info) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := e.snapshot.Swap(info)
	if e.hidden.Load() {
		return
	}
	x.counts[info.State]++
	if old != nil {
		x.counts[old.State]--
		return
	}
	i := x.after(info.Seq)
	x.order = slices.Insert(x.order, i, e)
	x.seqs = slices.Insert(x.seqs, i, info.Seq)
}

// hide takes a VM that is deleted from the readers.
func (x *index) hide(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	info := e.snapshot.Load()
	i := x.after(info.Seq) - 1
	if e.hidden.Swap(true) || i < 0 || x.order[i] != e {
		return
	}
	x.counts[info.State]--
	x.order = slices.Delete(x.order, i, i+1)
	x.seqs = slices.Delete(x.seqs, i, i+1)
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
