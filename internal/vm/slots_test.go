package vm

import (
	"testing"

	"pgregory.net/rapid"
)

// smallestFree is the naive slots.
func smallestFree(used map[uint32]int) uint32 {
	for n := uint32(0); ; n++ {
		if used[n] == 0 {
			return n
		}
	}
}

func TestSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		used := map[uint32]int{}
		for _, n := range rapid.SliceOf(rapid.Uint32Range(0, 40)).Draw(t, "of earlier VMs") {
			used[n]++
		}
		var s slots
		s.reserve(used)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				want := smallestFree(used)
				if got := s.take(); got != want {
					t.Fatalf("took %d, want %d: %v are used", got, want, used)
				}
				used[want]++
			},
			"give": func(t *rapid.T) {
				n := rapid.Uint32Range(0, 60).Draw(t, "slot")
				if used[n] == 0 {
					t.Skip("not taken")
				}
				s.give(n)
				used[n]--
			},
		})
	})
}
