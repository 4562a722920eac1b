package wal

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

var faults = []error{syscall.EIO, syscall.ENOSPC, errShort}

// TestFaultAtEveryOperation has each operation of a small life fail in each way, once or a few times.
func TestFaultAtEveryOperation(t *testing.T) {
	whole := newRig(t, tiny)
	whole.work()
	runs := 0
	for at := range whole.disk.ops {
		for i, fault := range faults {
			for k, times := range []int{1, 2, 5} {
				if !soak() && (at+i+k)%3 != 0 {
					continue // the others another time
				}
				r := newRig(t, tiny)
				r.desc = fmt.Sprintf("%v at operation %d, %d times", fault, at, times)
				r.disk.fault = func(o op) error {
					if o.n >= at && o.n < at+times && o.kind != "read" {
						return shorten(fault, o)
					}
					return nil
				}
				r.work()
				if s := r.log.Status(); times == 1 && s.Durable != s.Next-1 {
					r.fail("not all is durable: %+v", s)
				}
				r.verify()
				r.disk.fault = nil
				r.disk.reboot(func() bool { return false })
				r.recovers()
				runs++
			}
		}
	}
	t.Logf("%d faults", runs)
}

// shorten: only a write can be short.
func shorten(fault error, o op) error {
	if errors.Is(fault, errShort) && o.kind != "write" {
		return nil
	}
	return fault
}

// TestRandomLives does anything at any time: what a disk may do, and a host, and who uses the log.
func TestRandomLives(t *testing.T) {
	if soak() {
		if err := flag.Set("rapid.checks", "50000"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, tiny)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.open()
		t.Repeat(map[string]func(*rapid.T){
			"append":  func(*rapid.T) { r.append(false) },
			"final":   func(*rapid.T) { r.append(true) },
			"commit":  func(*rapid.T) { r.commit() },
			"compact": func(*rapid.T) { r.log.compactOne() },
			"ack": func(t *rapid.T) {
				r.ack(r.log.durable - min(r.log.durable, rapid.Uint64Range(0, 20).Draw(t, "behind")))
			},
			"shut": func(*rapid.T) { r.shut(); r.open() },
			"kill": func(*rapid.T) { r.disk.restart(); r.open() },
			"power": func(t *rapid.T) {
				r.disk.reboot(keeper(rapid.SampledFrom([]string{"dropped", "kept", "torn"}).Draw(t, "variant"), random))
				r.open()
			},
			"room":  func(t *rapid.T) { r.disk.room = r.disk.used() + rapid.Int64Range(0, 3*minSegment).Draw(t, "room") },
			"space": func(*rapid.T) { r.disk.room = -1 },
			"fault": func(t *rapid.T) {
				from, times := r.disk.ops+rapid.IntRange(0, 8).Draw(t, "in"), rapid.IntRange(1, 4).Draw(t, "times")
				fault := rapid.SampledFrom(faults).Draw(t, "fault")
				r.disk.fault = func(o op) error {
					if o.n >= from && o.n < from+times && o.kind != "read" {
						return shorten(fault, o)
					}
					return nil
				}
			},
			"": func(*rapid.T) { r.verify() },
		})
		r.disk.room, r.disk.fault = -1, nil
		r.disk.reboot(keeper("torn", random))
		r.recovers()
	})
}
