package usage

import "testing"

// BenchmarkAdd is one tick of one VM: 10,000 a second with 1,000 VMs.
func BenchmarkAdd(b *testing.B) {
	m := NewMeter(start, Running, zeroBaseline(), Limits{CPUMilli: 1000, MemoryBytes: 1 << 30, TickNs: tick})
	var placed uint64
	place := func(s Span) { placed += s.Amount.Of[CPU].Lo }
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := zeroBaseline().With(CPU, uint64(i)*tick/2).With(Resident, 1<<28).With(Allocated, 1<<28)
		if found := m.Add(Sample{Seq: uint64(i), At: after(int64(i+1) * tick), State: Running, Reading: r}, place, nil); found != nil {
			b.Fatal(found)
		}
	}
}
