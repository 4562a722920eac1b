package usage

import (
	"encoding/json"
	"testing"
)

// cpuPoints are points of a client without sequence numbers that burns half a CPU from the CPU time `from` on.
func cpuPoints(wall int64, n int, from uint64) []Point {
	points := make([]Point, n)
	for i := range points {
		r := zeroBaseline().With(Resident, 100).With(CPU, from+uint64(i)*tick/2)
		points[i] = Point{Wall: start.Wall + wall + int64(i)*tick, Reading: r}
	}
	return points
}

func cpuSamples(seq uint64, n int, from uint64) []Sample {
	samples := make([]Sample, n)
	for i, p := range cpuPoints(int64(seq)*tick, n, from) {
		samples[i] = Sample{Seq: seq + uint64(i), At: after(p.Wall - start.Wall), State: Running, Reading: p.Reading}
	}
	return samples
}

// TestTheEightCases are those in which adding up differences as they come bills something else than was used. Each is
// told by timestamps alone, and by ticks of incarnations.
func TestTheEightCases(t *testing.T) {
	first, second30 := cpuPoints(0, 601, 0), cpuPoints(600*tick, 601, 30*second)
	ticks := cpuSamples(0, 601, 0)
	for _, tt := range []struct {
		name    string
		want    uint64 // s of CPU time
		points  [][]Point
		samples [][]Sample // by incarnation
	}{
		{"a minute", 30, [][]Point{first}, [][]Sample{ticks}},
		{"delivered twice", 30, [][]Point{first, first}, [][]Sample{append(cpuSamples(0, 601, 0), ticks...)}},
		{"second minute first", 60, [][]Point{second30, first}, [][]Sample{append(cpuSamples(0, 601, 0), cpuSamples(600, 601, 30*second)...)}},
		{"counters begin anew", 50, [][]Point{first, cpuPoints(601*tick, 401, 0)}, [][]Sample{ticks, cpuSamples(0, 401, 0)}},
		{"1000 s on the counter before", 30, [][]Point{cpuPoints(0, 601, 1000*second)}, [][]Sample{cpuSamples(0, 601, 1000*second)}},
		{"started comes late", 30, [][]Point{first}, [][]Sample{ticks}},
		{"differences instead of sums", 30, nil, [][]Sample{ticks}}, // metald reads what is cumulative; differences are no readings
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.points != nil {
				var line Timeline
				l := newLedger()
				for _, batch := range tt.points {
					for _, p := range batch {
						if !line.Add(p, l.place) {
							t.Fatalf("%+v was refused", p)
						}
					}
				}
				if got := l.total().Of[CPU]; got != Of64(tt.want*second) {
					t.Errorf("by timestamps %s ns, want %d s", got, tt.want)
				}
			}
			l := newLedger()
			for _, samples := range tt.samples {
				v, _ := samples[0].Reading.Value(CPU)
				m := NewMeter(samples[0].At, Running, zeroBaseline().With(CPU, v), Limits{CPUMilli: 1000, TickNs: tick})
				for _, s := range samples {
					if found := m.Add(s, l.place, nil); found != nil {
						t.Fatal(found)
					}
				}
			}
			if got := l.total().Of[CPU]; got != Of64(tt.want*second) {
				t.Errorf("by ticks %s ns, want %d s", got, tt.want)
			}
		})
	}
	t.Run("one high sample of memory", func(t *testing.T) {
		m := NewMeter(start, Running, zeroBaseline(), Limits{})
		for i := range uint64(602) {
			level := uint64(100)
			if i == 300 {
				level = 1000
			}
			m.Add(Sample{Seq: i, At: after(int64(i) * tick), State: Running, Reading: zeroBaseline().With(Resident, level)}, nil, nil)
		}
		if want := Mul(600*100+1000, tick); m.Totals.Of[Resident] != want {
			t.Errorf("%s byte-ns, want %s", m.Totals.Of[Resident], want)
		}
	})
}

func TestValuesThatCannotBe(t *testing.T) {
	limits := Limits{CPUMilli: 2000, MemoryBytes: 1 << 30, DiskBytesPerSecond: 1 << 30, NetBytesPerSecond: 1 << 30, TickNs: tick}
	good := zeroBaseline().With(Resident, 1<<20).With(Allocated, 1<<29).With(NetSent, 10)
	for _, tt := range []struct {
		name string
		bad  Reading
		want Kind
		line Quantity
	}{
		{"CPU beyond its CPUs", good.With(CPU, 5*second), Beyond, Quantity(CPU)},
		{"CPU with a flipped bit", good.With(CPU, 1<<63), Beyond, Quantity(CPU)},
		{"disk beyond its rate", good.With(DiskRead, 1<<33), Beyond, Quantity(DiskRead)},
		{"memory beyond the host's", good.With(Resident, 1<<30+1), Beyond, Quantity(Resident)},
		{"bytes that fall", good.With(NetSent, 0), Fell, Quantity(NetSent)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin := good
			begin.Forget(Resident)
			begin.Forget(Allocated)
			m, l := NewMeter(start, Running, begin, limits), newLedger()
			begin = good
			m.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: begin}, l.place, nil)
			found := m.Add(Sample{Seq: 1, At: after(2 * tick), State: Running, Reading: tt.bad}, l.place, nil)
			if len(found) != 1 || found[0].Kind != tt.want || found[0].Quantity != tt.line {
				t.Fatalf("found %v", found)
			}
			if !m.Totals.Incomplete.Has(Field(tt.line)) {
				t.Error("what is not billed is not marked")
			}
			end := begin.With(CPU, tick).With(DiskRead, 7)
			if found := m.Add(Sample{Seq: 2, At: after(3 * tick), State: Running, Reading: end}, l.place, nil); found != nil {
				t.Errorf("a value that was set aside sticks: %v", found)
			}
			if m.Totals.Of[CPU] != Of64(tick) || m.Totals.Of[DiskRead] != Of64(7) || m.Totals.Of[Resident] != Mul(1<<20, 2*tick) {
				t.Errorf("totals are %v", m.Totals.Of)
			}
			if l.total() != m.Totals.Amount {
				t.Error("what is placed is not the total")
			}
		})
	}
}

func TestAStepOfTheWallClockIsNoDuration(t *testing.T) {
	for _, step := range []int64{3600 * second, -3600 * second, 2_000_000} {
		m, l := NewMeter(start, Running, zeroBaseline(), Limits{}), newLedger()
		at := after(tick)
		at.Wall += step
		found := m.Add(Sample{Seq: 0, At: at, State: Running, Reading: zeroBaseline()}, l.place, nil)
		if len(found) != 1 || found[0].Kind != WallStepped || found[0].Quarantined() {
			t.Errorf("a step of %d ns: %v", step, found)
		}
		if m.Totals.Of[RunningNs] != Of64(tick) {
			t.Errorf("a step of %d ns made %s ns of %d", step, m.Totals.Of[RunningNs], tick)
		}
	}
}

func TestTheMonotonicClockNeverFalls(t *testing.T) {
	m := NewMeter(start, Running, zeroBaseline(), Limits{})
	m.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: zeroBaseline().With(CPU, 5)}, nil, nil)
	found := m.Add(Sample{Seq: 1, At: after(0), State: Running, Reading: zeroBaseline().With(CPU, 9)}, nil, nil)
	if len(found) != 1 || found[0].Kind != ClockFell || m.Totals.Of[CPU] != Of64(5) {
		t.Errorf("found %v, totals %v", found, m.Totals.Of)
	}
	m.Add(Sample{Seq: 2, At: after(2 * tick), State: Running, Reading: zeroBaseline().With(CPU, 11)}, nil, nil)
	if m.Totals.Of[CPU] != Of64(11) || m.Totals.Of[GapTicks] != Of64(1) {
		t.Errorf("after it totals are %v", m.Totals.Of)
	}
}

func TestWhatWasNeverSeenIsUnknown(t *testing.T) {
	var nothing, base Reading
	m := NewMeter(start, Running, base, Limits{})
	m.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: nothing.With(CPU, 50)}, nil, nil)
	m.Add(Sample{Seq: 1, At: after(2 * tick), State: Running, Reading: nothing.With(CPU, 80)}, nil, nil)
	if v, ok := m.Totals.Known(Quantity(CPU)); !ok || v != Of64(30) || !m.Totals.Incomplete.Has(CPU) {
		t.Errorf("CPU is %s, %t: the first value is the baseline, and something came before it", v, ok)
	}
	for _, f := range []Field{DiskRead, DiskWritten, NetReceived, NetSent, Resident, Allocated} {
		if _, ok := m.Totals.Known(Quantity(f)); ok {
			t.Errorf("%s is known, and was never read", f)
		}
	}
}

func TestPauseBetweenTicks(t *testing.T) {
	m, l := NewMeter(start, Running, zeroBaseline(), Limits{}), newLedger()
	level := zeroBaseline().With(Allocated, 8).With(Resident, 4)
	m.Add(Sample{Seq: 0, At: start, State: Running, Reading: level}, l.place, nil)
	m.Enter(after(30), Paused, l.place)
	m.Enter(after(50), Stopping, l.place)
	m.Add(Sample{Seq: 1, At: after(100), State: Stopping, Reading: level}, l.place, nil)
	of := m.Totals.Of
	if of[RunningNs] != Of64(30) || of[PausedNs] != Of64(20) || of[OtherNs] != Of64(50) || of[Allocated] != Of64(8*50) || of[Resident] != Of64(4*100) {
		t.Errorf("totals are %v", of)
	}
	if l.total() != m.Totals.Amount {
		t.Error("what is placed is not the total")
	}
}

func TestAMeterCanBeKept(t *testing.T) {
	m := NewMeter(start, Running, zeroBaseline(), Limits{CPUMilli: 1})
	m.Add(Sample{Seq: 3, At: after(5), State: Paused, Reading: Reading{}.With(Resident, 0)}, nil, nil)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var got Meter
	if err := json.Unmarshal(text, &got); err != nil || got != *m {
		t.Errorf("%v: kept %+v, read %+v", err, m, got)
	}
}

func TestTotalsThatContradictTheirTicks(t *testing.T) {
	m := NewMeter(start, Running, zeroBaseline(), Limits{})
	m.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: zeroBaseline().With(CPU, 9).With(Resident, 4)}, nil, nil)
	m.Add(Sample{Seq: 5, At: after(2 * tick), State: Running, Reading: zeroBaseline().With(CPU, 9).With(Resident, 4)}, nil, nil)
	said, l := m.Totals, newLedger()
	said.Of[CPU] = Of64(8)
	said.Of[Resident] = said.Of[Resident].Plus(Of64(100)) // seen in the ticks that did not come
	found := m.Settle(said, after(tick), l.place)
	if len(found) != 1 || found[0].Kind != Short || found[0].Quantity != Quantity(CPU) {
		t.Errorf("found %v", found)
	}
	if m.Totals.Of[CPU] != Of64(9) || m.Totals.Of[Resident] != said.Of[Resident] || l.total().Of[Resident] != Of64(100) {
		t.Errorf("totals are %v, placed %v", m.Totals.Of, l.total().Of)
	}
	if older := m.Totals; m.Settle(Totals{At: older.At}, after(0), nil) != nil || m.Totals != older {
		t.Error("totals of another tick settle nothing")
	}
}

func TestATimelineTakesNoAbsurdValue(t *testing.T) {
	var line Timeline
	l := newLedger()
	points := cpuPoints(0, 3, 1000*second)
	absurd := points[1]
	absurd.Reading.Put(CPU, 1<<62)
	if !line.Add(points[0], l.place) || line.Add(absurd, l.place) || !line.Add(points[2], l.place) {
		t.Error("the absurd point alone is refused")
	}
	early := points[0]
	early.Wall--
	early.Reading.Put(CPU, 1<<62) // as if the counter had begun anew at 1000 s, a nanosecond later
	if line.Add(early, l.place) {
		t.Error("a point that leaves an absurd amount to the next is taken")
	}
	if got := l.total().Of[CPU]; got != Of64(tick) {
		t.Errorf("%s ns are billed, of %d", got, tick)
	}
}
