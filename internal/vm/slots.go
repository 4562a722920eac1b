package vm

import "container/heap"

// slots hands out the smallest number that is free. uids, and whatever else is allocated per VM, derive from it,
// so that after a crash the record alone says what to look for.
type slots struct {
	free intHeap
	next uint32
	more map[uint32]int // of a slot that several records have, how many beyond the first
}

func (s *slots) take() uint32 {
	if len(s.free) > 0 {
		return heap.Pop(&s.free).(uint32)
	}
	s.next++
	return s.next - 1
}

func (s *slots) give(n uint32) {
	if s.more[n] > 0 {
		s.more[n]--
		return
	}
	heap.Push(&s.free, n)
}

// reserve marks the slots of VMs that were there before this metald, and by how many records; what lies between them
// is free. A slot has two records where that of a VM that was deleted could not be removed.
func (s *slots) reserve(used map[uint32]int) {
	s.more = map[uint32]int{}
	for n, records := range used {
		s.next = max(s.next, n+1)
		if records > 1 {
			s.more[n] = records - 1
		}
	}
	for n := range s.next {
		if used[n] == 0 {
			heap.Push(&s.free, n)
		}
	}
}

type intHeap []uint32

func (h intHeap) Len() int           { return len(h) }
func (h intHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h intHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *intHeap) Push(x any)        { *h = append(*h, x.(uint32)) }
func (h *intHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
