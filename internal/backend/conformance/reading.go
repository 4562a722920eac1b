package conformance

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func readingSentences() []sentence {
	return []sentence{
		{"CPU time never falls, and grows while a guest runs", []Ability{Usage}, cpuTime},
		{"usage that is not known is not a zero", nil, unknownUsage},
		{"a VM without a VMM has no usage", nil, noUsage},
		{"the list is in order of creation, in pages, filtered", nil, listing},
		{"the list is true while VMs come and go", nil, listingUnderChurn},
	}
}

var secondLine = regexp.MustCompile(`second [0-9]+`)

func containsSecond(s string) bool { return secondLine.MatchString(s) }

func cpuTime(t *testing.T, s *site) {
	s.running("a")
	first, last := time.Duration(-1), time.Duration(-1)
	tick := time.NewTicker(110 * time.Millisecond) // readings are kept for 100 ms
	defer tick.Stop()
	for i := range 10 {
		usage, err := s.Usage(s.ctx(), "a")
		if err != nil || usage.CPUTime == nil {
			t.Fatalf("reading %d: %+v, %v", i, usage, err)
		}
		if *usage.CPUTime < last {
			t.Errorf("CPU time fell from %s to %s", last, *usage.CPUTime)
		}
		if last = *usage.CPUTime; first < 0 {
			first = last
		}
		if i == 5 {
			s.restart()
		}
		<-tick.C
	}
	if last == first {
		t.Errorf("a guest that boots used no CPU time beyond %s", last)
	}
}

func unknownUsage(t *testing.T, s *site) {
	begun := time.Now()
	s.running("a")
	usage, err := s.Usage(s.ctx(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if usage.At.Before(begun) || usage.At.After(time.Now()) {
		t.Errorf("read at %v", usage.At)
	}
	if usage.CPUTime != nil && *usage.CPUTime < 0 || usage.MemoryBytes != nil && *usage.MemoryBytes <= 0 {
		t.Errorf("usage is %+v", usage)
	}
	for id := range usage.Disks {
		if !slices.ContainsFunc(s.spec().Disks, func(d types.Disk) bool { return d.ID == id }) {
			t.Errorf("usage of a disk %q that was not asked for", id)
		}
	}
}

func noUsage(t *testing.T, s *site) {
	s.running("a")
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	_, err := s.Usage(s.ctx(), "a")
	s.wantKind(err, types.KindPrecondition, "")
}

func (s *site) many(few, many int) int {
	if s.h.Slow {
		return few
	}
	return many
}

func listing(t *testing.T, s *site) {
	n := s.many(4, 30)
	for i := range n {
		id := types.VMID(fmt.Sprintf("vm%d", (i*7)%31)) // so that names are in no order
		s.create(id, s.spec())
		if i%2 == 1 {
			s.boot(id)
		}
	}
	for range 2 {
		var seqs []uint64
		query := vm.ListQuery{Limit: 3}
		for {
			page := s.List(query)
			if page.Total != n {
				t.Fatalf("the total is %d, want %d", page.Total, n)
			}
			for _, info := range page.VMs {
				seqs = append(seqs, info.Seq)
			}
			if page.Next == 0 {
				break
			}
			query.After = page.Next
		}
		if len(seqs) != n || !slices.IsSorted(seqs) {
			t.Errorf("listed %v", seqs)
		}
		running := s.List(vm.ListQuery{Limit: n, States: []lifecycle.State{lifecycle.Running}})
		if running.Total != n/2 || len(running.VMs) != n/2 || running.Next != 0 {
			t.Errorf("%d of %d VMs run; listed %d", n/2, running.Total, len(running.VMs))
		}
		s.restart()
	}
}

func listingUnderChurn(t *testing.T, s *site) {
	stay := s.create("stays", s.spec())
	var churn sync.WaitGroup
	for i := range s.many(2, 8) {
		churn.Go(func() { s.comeAndGo(types.VMID(fmt.Sprintf("goes%d", i)), s.many(2, 20)) })
	}
	done := make(chan struct{})
	go func() { churn.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if !s.listIsTrue(stay.Seq) {
			break
		}
	}
	<-done
	if all := s.all(); len(all) != 1 {
		t.Errorf("left in the list: %+v", all)
	}
}

// comeAndGo makes and deletes a VM several times.
func (s *site) comeAndGo(id types.VMID, times int) {
	for range times {
		if _, err := s.Create(s.ctx(), id, s.spec()); err != nil {
			s.t.Error(err)
		}
		if _, err := s.Boot(s.ctx(), id); err != nil {
			s.t.Error(err)
		}
		if err := s.Delete(s.ctx(), id, true); err != nil {
			s.t.Error(err)
		}
	}
}

// listIsTrue checks that the list agrees with itself, and has the VM that was there all the time.
func (s *site) listIsTrue(stay uint64) bool {
	states := []lifecycle.State{lifecycle.Created, lifecycle.Running, lifecycle.Paused, lifecycle.Shutdown}
	for _, filter := range [][]lifecycle.State{nil, states, states[:1], states[1:2]} {
		page := s.List(vm.ListQuery{Limit: 100, States: filter})
		if page.Total != len(page.VMs) {
			s.t.Errorf("a total of %d, and %d VMs", page.Total, len(page.VMs))
			return false
		}
		if !slices.IsSortedFunc(page.VMs, func(a, b vm.Info) int { return cmp.Compare(a.Seq, b.Seq) }) {
			s.t.Error("listed out of order")
			return false
		}
		if len(filter) != 1 && !slices.ContainsFunc(page.VMs, func(i vm.Info) bool { return i.Seq == stay }) {
			s.t.Error("a VM that is there is not listed")
			return false
		}
	}
	return true
}
