package fifo

import (
	"fmt"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
)

// crashed is what ends a Collector in the middle.
type crashed struct{}

// crash runs f of a Collector that ends after n more steps, and says whether it came that far. A write that was cut
// short left torn of its bytes, if that is not negative.
func crash(c *Collector, n, torn int, f func() error) (ended bool, err error) {
	c.after = func(s step) {
		if n--; n >= 0 {
			return
		}
		if s == writing && torn >= 0 {
			if err := c.halves[1-c.current].Truncate(int64(min(torn, len(c.scratch)-1))); err != nil {
				panic(err)
			}
		}
		panic(crashed{})
	}
	ended, err = untilCrash(f)
	if ended {
		c.release()
	}
	c.after = func(step) {}
	return ended, err
}

func untilCrash(f func() error) (ended bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ended = r.(crashed); !ended {
				panic(r)
			}
		}
	}()
	return false, f()
}

// TestACrashAfterAnyStep ends the Collector after each of its steps in random lives, and lets the write of a state be
// torn. The totals are the truth to the last byte.
func TestACrashAfterAnyStep(t *testing.T) {
	seen := 0
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(rt, err)
		fifo, write := newFIFO(t, dir)
		c, err := Create(dir, twoAndTwo, fifo)
		must(rt, err)
		v := newVMM(write, rapid.Uint64().Draw(rt, "seed"))
		for range rapid.IntRange(1, 30).Draw(rt, "lives") {
			for range rapid.IntRange(0, 12).Draw(rt, "flushes") {
				if !v.tick() {
					rt.Fatal("refused")
				}
			}
			call := rapid.SampledFrom([]func() error{c.Collect, c.Collect, c.Collect, c.checkpoint}).Draw(rt, "call")
			ended, err := crash(c, rapid.IntRange(0, 12).Draw(rt, "steps"), rapid.IntRange(-1, 2000).Draw(rt, "torn"), call)
			must(rt, err)
			if ended {
				seen++
				c, err = Open(dir, twoAndTwo, fifo)
				must(rt, err)
			}
			for i, n := range flatten(c.Totals().Totals) {
				if n > v.truth[i] {
					rt.Fatalf("counter %d is %d, the truth %d", i, n, v.truth[i])
				}
			}
		}
		must(rt, c.End(true))
		must(rt, c.Close())
		got := c.Totals()
		if len(got.Gaps) > 0 || got.Partial || got.InGap || c.Doubt() != nil {
			rt.Fatalf("gaps %v, partial %t, doubt %v", got.Gaps, got.Partial, c.Doubt())
		}
		if want := fmt.Sprint(v.truth); fmt.Sprint(flatten(got.Totals)) != want {
			rt.Fatalf("%v, the truth is %s", flatten(got.Totals), want)
		}
	})
	if seen == 0 {
		t.Error("no crash happened")
	}
}

// TestACrashInMarkingAGap ends the Collector after each step of Missed and of End.
func TestACrashInMarkingAGap(t *testing.T) {
	for steps := range 6 {
		dir := t.TempDir()
		fifo, write := newFIFO(t, dir)
		c, err := Create(dir, twoAndTwo, fifo)
		must(t, err)
		v := newVMM(write, 1)
		for v.tick() {
		}
		v.die()
		for _, call := range []func(c *Collector) error{(*Collector).Missed, func(c *Collector) error { return c.End(false) }} {
			ended, err := crash(c, steps, steps*300-1, func() error { return call(c) })
			must(t, err)
			if ended {
				c, err = Open(dir, twoAndTwo, fifo)
				must(t, err)
				must(t, call(c))
			}
		}
		must(t, c.Close())
		v.check(t, c.Totals())
		if got := c.Totals(); !got.Ended || got.InGap {
			t.Errorf("%+v", got)
		}
	}
}

// damage changes a state file. sure says that something is missing for it.
type damage struct {
	name string
	do   func(t *testing.T, dir string, inUse, other string)
	sure bool
}

var damages = []damage{
	{"none", func(*testing.T, string, string, string) {}, false},
	{"the old one is gone", func(t *testing.T, _, _, other string) { must(t, os.Remove(other)) }, false},
	{"both are gone", func(t *testing.T, _, inUse, other string) { must(t, os.Remove(inUse)); must(t, os.Remove(other)) }, true},
	{"both are empty", func(t *testing.T, _, inUse, other string) {
		must(t, os.Truncate(inUse, 0))
		must(t, os.Truncate(other, 0))
	}, true},
	{"the one in use is damaged", func(t *testing.T, _, inUse, _ string) { flip(t, inUse, 40) }, true},
	{"its magic is", func(t *testing.T, _, inUse, _ string) { flip(t, inUse, 3) }, true},
	{"its length is", func(t *testing.T, _, inUse, _ string) { flip(t, inUse, int64(len(magic)+8)) }, true},
	{"the old one is damaged", func(t *testing.T, _, _, other string) { flip(t, other, 40) }, true},
	{"both are damaged", func(t *testing.T, _, inUse, other string) { flip(t, inUse, 40); flip(t, other, 30) }, true},
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	_, err = f.WriteAt([]byte{b[0] ^ 0x55}, at)
	must(t, err)
}

// TestACrashInOpen ends Open after each of its steps, with each damage that it may find.
func TestACrashInOpen(t *testing.T) {
	for _, tt := range damages {
		for steps := range 9 {
			b := newBench(t, twoAndTwo)
			v := newVMM(b.write, 1)
			for range 33 {
				v.tick()
				must(t, b.c.Collect())
			}
			inUse, other := b.c.halves[b.c.current].Name(), b.c.name(1-b.c.current)
			must(t, b.c.Close())
			tt.do(t, b.dir, inUse, other)
			n := steps
			_, err := untilCrash(func() error {
				c, err := reopen(b.dir, twoAndTwo, b.fifo, func(step) {
					if n--; n < 0 {
						panic(crashed{})
					}
				})
				if err == nil {
					err = c.Close()
				}
				return err
			})
			must(t, err)
			v.tick()
			b.c, err = Open(b.dir, twoAndTwo, b.fifo)
			must(t, err)
			must(t, b.c.Collect())
			got := b.c.Totals()
			exact := fmt.Sprint(flatten(got.Totals)) == fmt.Sprint(v.truth)
			if gap := len(got.Gaps) > 0; gap != tt.sure || !gap && !exact {
				t.Errorf("%s, %d steps: exact: %t, gaps %v", tt.name, steps, exact, got.Gaps)
			}
			for i, n := range flatten(got.Totals) {
				if n > v.truth[i] {
					t.Errorf("%s, %d steps: counter %d is %d, the truth %d", tt.name, steps, i, n, v.truth[i])
				}
			}
		}
	}
}

// TestDamagedStates shows that what is lost with a state is a gap, and never a zero that looks like the truth.
func TestDamagedStates(t *testing.T) {
	for _, tt := range damages {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			fifo, write := newFIFO(t, dir)
			c, err := Create(dir, twoAndTwo, fifo)
			must(t, err)
			v := newVMM(write, 1)
			for range 33 {
				v.tick()
				must(t, c.Collect())
			}
			inUse, other := c.halves[c.current].Name(), c.name(1-c.current)
			must(t, c.Close())
			tt.do(t, dir, inUse, other)
			v.tick()
			for range 2 { // the damage is noticed once
				c, err = Open(dir, twoAndTwo, fifo)
				must(t, err)
				must(t, c.Collect())
				v.tick()
				must(t, c.Close())
			}
			got := c.Totals()
			if c.Doubt() != nil {
				t.Errorf("noticed again: %v", c.Doubt())
			}
			exact := fmt.Sprint(flatten(got.Totals)) == fmt.Sprint(v.truth)
			if exact == tt.sure && tt.name != "the old one is damaged" || (len(got.Gaps) > 0) != tt.sure {
				t.Errorf("exact: %t, gaps %v, partial %t", exact, got.Gaps, got.Partial)
			}
			if got.Partial && !got.Gaps[0].After.IsZero() {
				t.Errorf("partial, and the first gap is %v", got.Gaps[0])
			}
			for i, n := range flatten(got.Totals) {
				if n > v.truth[i] {
					t.Errorf("counter %d is %d, the truth %d", i, n, v.truth[i])
				}
			}
		})
	}
}

func TestNothingIsMissingAfterTheEnd(t *testing.T) {
	b := newBench(t, twoAndTwo)
	b.put(t, oneLine(t))
	must(t, b.c.End(true))
	other := b.c.name(1 - b.c.current)
	must(t, b.c.Close())
	flip(t, other, 3)
	c, err := Open(b.dir, twoAndTwo, b.fifo)
	must(t, err)
	b.c = c
	if got := c.Totals(); c.Doubt() != nil || !got.Ended || got.InGap || len(got.Gaps) != 0 || got.Lines != 1 {
		t.Errorf("doubt %v, %+v", c.Doubt(), got)
	}
}

func TestAStateOfOtherDevicesIsNotContinued(t *testing.T) {
	dir := t.TempDir()
	fifo, write := newFIFO(t, dir)
	c, err := Create(dir, twoAndTwo, fifo)
	must(t, err)
	v := newVMM(write, 1)
	for range 40 {
		v.tick()
		must(t, c.Collect())
	}
	must(t, c.checkpoint())
	must(t, c.Close())
	for i := range 2 {
		c, err = Open(dir, metrics.Devices{Drives: []string{"root"}}, fifo)
		must(t, err)
		v.tick()
		must(t, c.Collect())
		must(t, c.Close())
		got := c.Totals()
		if (c.Doubt() != nil) != (i == 0) || !got.Partial || len(got.Gaps) != 1 || !got.Gaps[0].After.IsZero() {
			t.Errorf("open %d: doubt %v, %+v", i, c.Doubt(), got)
		}
	}
	if _, err := Open(dir, metrics.Devices{Drives: []string{"a-b"}}, fifo); err == nil {
		t.Error("an id that no drive can have is accepted")
	}
}
