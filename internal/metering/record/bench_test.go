package record

import (
	"math/rand/v2"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

const vms = 1000

// frame is what a record takes in the log beside its body: a header, and zeros up to a multiple of 8.
func frame(body int) int { return (64 + body + 7) &^ 7 }

// load is how many of the VMs are idle and light; the rest is busy. Disks are read at each tick where that costs nothing;
// else they are asked once a second, and UNKNOWN between.
type load struct {
	idle, light float64
	atHand      bool
}

var loads = []struct {
	name string
	load
}{
	{"idle", load{1, 0, false}}, {"mix", load{.70, .25, false}}, {"mix, disks at hand", load{.70, .25, true}},
	{"busy", load{0, 0, false}}, {"busy, disks at hand", load{0, 0, true}},
}

// host makes readings of vms machines, of which those work in each tick that are not idle.
type host struct {
	load
	rand   *rand.Rand
	lines  []Line
	values [vms][usage.Fields]uint64
	tick   int
}

func newHost(l load) *host {
	h := &host{load: l, rand: rand.New(rand.NewPCG(1, 2)), lines: make([]Line, vms)}
	for i := range h.values {
		h.values[i][usage.Resident] = 100 << 20
		h.values[i][usage.Allocated] = 512 << 20
		h.lines[i].Epoch = uint64(i + 1)
	}
	return h
}

// next is the next tick.
func (h *host) next() []Line {
	h.tick++
	for i := range h.values {
		v := &h.values[i]
		share := float64(i) / vms
		active := share >= h.idle
		if active {
			h.work(v, share >= h.idle+h.light)
		}
		r := usage.Reading{}
		for f := range usage.Field(usage.Fields) {
			if disk := f == usage.DiskRead || f == usage.DiskWritten; !disk || h.atHand || !active || (h.tick+i)%10 == 0 {
				r.Put(f, v[f])
			}
		}
		h.lines[i].Reading = r
	}
	return h.lines
}

// work is what a VM uses in a tick: a busy one has 23 bits of spread in CPU time and in each direction of the network, 10
// of pages in each direction of the disk, 9 of pages of memory. Light ones do a little of each.
func (h *host) work(v *[usage.Fields]uint64, busy bool) {
	if busy {
		v[usage.CPU] += 90_000_000 + uint64(h.rand.IntN(10_000_000))
		v[usage.NetReceived] += uint64(h.rand.IntN(10_000_000))
		v[usage.NetSent] += uint64(h.rand.IntN(10_000_000))
		v[usage.DiskRead] += uint64(h.rand.IntN(1<<10)) << 12
		v[usage.DiskWritten] += uint64(h.rand.IntN(1<<10)) << 12
		v[usage.Resident] = 100<<20 + uint64(h.rand.IntN(1<<9))<<12
		return
	}
	v[usage.CPU] += 1_000_000 + uint64(h.rand.IntN(1_000_000))
	v[usage.NetReceived] += uint64(h.rand.IntN(2_000))
	v[usage.NetSent] += uint64(h.rand.IntN(2_000))
	if h.rand.IntN(4) == 0 {
		v[usage.DiskWritten] += uint64(h.rand.IntN(16)) << 12
		v[usage.Resident] += uint64(h.rand.IntN(4)) << 12
	}
}

func benchLife(epoch uint64) usage.Life {
	var zero usage.Reading
	for f := range usage.Field(usage.Counters) {
		zero.Put(f, 0)
	}
	return usage.Life{
		Incarnation: usage.Incarnation{Host: "8c2f0b4e-7d55-4a0b-9f0f-0d7f5d1a2b3c", VM: "vm-01jd3v7q2m8k4x9z0c5b6n7a8s", Epoch: epoch, Boot: "0b9a4f6e-51a5-4f0e-8f8e-1f6f3f0b7a11", StartTicks: 12345678},
		Customer:    "org_2fV9kqLwX", Start: usage.Time{Mono: 1e12, Wall: 18e17}, State: usage.Running, Baseline: zero,
		Limits: usage.Limits{CPUMilli: 3000, MemoryBytes: 1 << 30, TickNs: interval},
	}
}

// BenchmarkTick is one tick of 1,000 VMs, written and read. B/sample is with the log's frames, and with a keyframe each
// 2 MiB.
func BenchmarkTick(b *testing.B) {
	for _, l := range loads {
		b.Run(l.name+"/encode", func(b *testing.B) { benchEncode(b, l.load) })
		b.Run(l.name+"/decode", func(b *testing.B) { benchDecode(b, l.load) })
	}
}

func (e *Encoder) populate() (at usage.Time) {
	for i := range uint64(vms) {
		e.Begin(nil, benchLife(i+1))
	}
	return usage.Time{Mono: 1e12, Wall: 18e17}
}

// late is the time of the next tick, with the jitter of a timer.
func late(h *host, at usage.Time) usage.Time {
	ns := int64(interval) + h.rand.Int64N(200_000)
	return usage.Time{Mono: at.Mono/interval*interval + ns, Wall: at.Wall/interval*interval + ns + h.rand.Int64N(100)}
}

func benchEncode(b *testing.B, l load) {
	var e Encoder
	at, h := e.populate(), newHost(l)
	var buf []byte
	var bytes, samples int
	e.Keyframe(nil, at)
	group := 0 // bytes since the last keyframe
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		lines := h.next()
		at = late(h, at)
		if group > 2<<20 {
			buf = e.Keyframe(buf[:0], at)
			group = frame(len(buf))
			bytes += group
		}
		b.StartTimer()
		buf = e.Tick(buf[:0], at, 0, lines)
		bytes += frame(len(buf))
		group += frame(len(buf))
		samples += vms
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
	b.ReportMetric(float64(bytes)/float64(samples), "B/sample")
}

func benchDecode(b *testing.B, l load) {
	var e Encoder
	at, h := e.populate(), newHost(l)
	var d Decoder
	if err := d.Decode(TypeKeyframe, e.Keyframe(nil, at), &events{}); err != nil {
		b.Fatal(err)
	}
	var sink counter
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		at = late(h, at)
		buf = e.Tick(buf[:0], at, 0, h.next())
		b.StartTimer()
		if err := d.Decode(TypeTick, buf, &sink); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sink.n), "ns/sample")
}

type counter struct {
	events
	n int
}

func (c *counter) Sample(uint64, usage.Sample) { c.n++ }

// TestATickAllocatesNothing: on neither side, once all has grown to its size.
func TestATickAllocatesNothing(t *testing.T) {
	var e Encoder
	at, h := e.populate(), newHost(load{.70, .25, false})
	var d Decoder
	if err := d.Decode(TypeKeyframe, e.Keyframe(nil, at), &events{}); err != nil {
		t.Fatal(err)
	}
	var sink counter
	buf := make([]byte, 0, 1<<20)
	tick := func() {
		at = late(h, at)
		buf = e.Tick(buf[:0], at, 0, h.next())
		if err := d.Decode(TypeTick, buf, &sink); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		tick()
	}
	if n := testing.AllocsPerRun(100, tick); n != 0 {
		t.Errorf("%v allocations a tick", n)
	}
}
