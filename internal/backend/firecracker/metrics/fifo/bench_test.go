package fifo

import (
	"encoding/json"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestACollectCostsNoAllocation(t *testing.T) {
	b := newBench(t, twoAndTwo)
	line := []byte(oneLine(t))
	var totals Totals
	tick := func() {
		writeLine(t, b.write, line)
		if err := b.c.Collect(); err != nil {
			t.Fatal(err)
		}
		b.c.ReadTotals(&totals)
	}
	for range 50 { // makes the buffers
		tick()
	}
	if n := testing.AllocsPerRun(100, tick); n != 0 { // some of which write a state
		t.Errorf("%v allocations per Collect", n)
	}
}

// BenchmarkCollect is one tick of one VM, without what Firecracker does in it.
func BenchmarkCollect(b *testing.B) {
	rig := newBench(b, twoAndTwo)
	line := []byte(oneLine(b))
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		writeLine(b, rig.write, line)
		if err := rig.c.Collect(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCollectIdle is a tick of a VM that wrote nothing.
func BenchmarkCollectIdle(b *testing.B) {
	rig := newBench(b, twoAndTwo)
	b.ReportAllocs()
	for b.Loop() {
		if err := rig.c.Collect(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadAndSkip is the floor: it reads the pipe, checks that it is JSON, and remembers nothing.
func BenchmarkReadAndSkip(b *testing.B) {
	rig := newBench(b, twoAndTwo)
	line := []byte(oneLine(b))
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		writeLine(b, rig.write, line)
		n, err := unix.Read(int(rig.fifo.Fd()), p)
		if err != nil || !json.Valid(p[:n]) {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite is the part of the others that is not theirs.
func BenchmarkWrite(b *testing.B) {
	rig := newBench(b, twoAndTwo)
	line := []byte(oneLine(b))
	p := make([]byte, 64<<10)
	for b.Loop() {
		writeLine(b, rig.write, line)
		if _, err := unix.Read(int(rig.fifo.Fd()), p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadTotals(b *testing.B) {
	rig := newBench(b, twoAndTwo)
	rig.put(b, oneLine(b))
	must(b, rig.c.Collect())
	var totals Totals
	b.ReportAllocs()
	for b.Loop() {
		rig.c.ReadTotals(&totals)
	}
}

// BenchmarkOpen is a restart with as much to read again as there ever is without a backlog.
func BenchmarkOpen(b *testing.B) {
	rig := newBench(b, twoAndTwo)
	line := oneLine(b)
	for range 9 {
		rig.put(b, line)
		must(b, rig.c.Collect())
	}
	for b.Loop() {
		c, err := Open(rig.dir, twoAndTwo, rig.fifo)
		must(b, err)
		must(b, c.release())
	}
}

// writeLine writes as Firecracker does, 1 KiB at a time.
func writeLine(b testing.TB, to int, line []byte) {
	for p := range slices.Chunk(line, lineBuffer) {
		if _, err := unix.Write(to, p); err != nil {
			b.Fatal(err)
		}
	}
}
