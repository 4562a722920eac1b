package receiver

import (
	"math"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

func incarnationFromProto(p *pb.Incarnation) usage.Incarnation {
	return usage.Incarnation{Host: p.GetHostId(), VM: p.GetVmId(), Epoch: p.GetEpoch(), Boot: p.GetBootId(), StartTicks: p.GetStartTicks()}
}

func incarnationToProto(i usage.Incarnation) *pb.Incarnation {
	return &pb.Incarnation{HostId: i.Host, VmId: i.VM, Epoch: i.Epoch, BootId: i.Boot, StartTicks: i.StartTicks}
}

func timeFromProto(p *pb.Moment) usage.Time {
	return usage.Time{Mono: p.GetMonoNs(), Wall: p.GetWallNs()}
}

func stateFromProto(s pb.VmState) usage.State {
	return usage.State(s) // numbered alike; the rules let no other pass
}

func startFromProto(p *pb.NotifyVmStartedRequest) store.Start {
	b := p.GetBaseline()
	start := store.Start{
		Incarnation: incarnationFromProto(p.GetIncarnation()),
		Customer:    p.GetCustomerId(),
		At:          timeFromProto(b.GetAt()),
		State:       stateFromProto(b.GetState()),
		Limits: usage.Limits{
			CPUMilli:           b.GetCpuMilli(),
			MemoryBytes:        b.GetMemoryBytes(),
			DiskBytesPerSecond: b.GetDiskBytesPerSecond(),
			NetBytesPerSecond:  b.GetNetworkBytesPerSecond(),
			TickNs:             b.GetTickNs(),
		},
	}
	for f, v := range []*uint64{b.CpuNs, b.DiskReadBytes, b.DiskWriteBytes, b.NetworkRxBytes, b.NetworkTxBytes} {
		if v != nil {
			start.Baseline.Put(usage.Field(f), *v)
		}
	}
	if b.MemoryAllocatedBytes != nil {
		start.Baseline.Put(usage.Allocated, *b.MemoryAllocatedBytes)
	}
	return start
}

// measures are the measures of the wire, by field.
func measures() [usage.Fields]pb.Measure {
	return [usage.Fields]pb.Measure{
		usage.CPU:         pb.Measure_MEASURE_CPU,
		usage.DiskRead:    pb.Measure_MEASURE_DISK_READ,
		usage.DiskWritten: pb.Measure_MEASURE_DISK_WRITE,
		usage.NetReceived: pb.Measure_MEASURE_NETWORK_RX,
		usage.NetSent:     pb.Measure_MEASURE_NETWORK_TX,
		usage.Resident:    pb.Measure_MEASURE_MEMORY_RESIDENT,
		usage.Allocated:   pb.Measure_MEASURE_MEMORY_ALLOCATED,
	}
}

func setFromProto(list []pb.Measure) usage.Set {
	var s usage.Set
	for _, m := range list {
		for f, known := range measures() {
			if m == known {
				s |= 1 << f
			}
		}
	}
	return s
}

func setToProto(s usage.Set) []pb.Measure {
	var list []pb.Measure
	for f, m := range measures() {
		if s.Has(usage.Field(f)) {
			list = append(list, m)
		}
	}
	return list
}

func totalsFromProto(p *pb.Totals) usage.Totals {
	t := usage.Totals{At: timeFromProto(p.GetAt()), Next: p.GetNextSeq()}
	for f, v := range []*uint64{p.CpuNs, p.DiskReadBytes, p.DiskWriteBytes, p.NetworkRxBytes, p.NetworkTxBytes} {
		if v != nil {
			t.Of[f] = usage.Of64(*v)
			t.Measured |= 1 << f
		}
	}
	for f, v := range map[usage.Field]*pb.Uint128{usage.Resident: p.GetMemoryResidentByteNs(), usage.Allocated: p.GetMemoryAllocatedByteNs()} {
		if v != nil {
			t.Of[f] = usage.U128{Hi: v.GetHi(), Lo: v.GetLo()}
			t.Measured |= 1 << f
		}
	}
	t.Of[usage.RunningNs] = usage.Of64(p.GetRunningNs())
	t.Of[usage.PausedNs] = usage.Of64(p.GetPausedNs())
	t.Of[usage.OtherNs] = usage.Of64(p.GetOtherNs())
	t.Of[usage.UnobservedNs] = usage.Of64(p.GetUnobservedNs())
	t.Of[usage.GapTicks] = usage.Of64(p.GetGapTicks())
	t.Incomplete = setFromProto(p.GetIncomplete())
	return t
}

func totalsToProto(t usage.Totals) *pb.Totals {
	one := func(q usage.Quantity) *uint64 {
		if v, ok := t.Known(q); ok {
			return &v.Lo
		}
		return nil
	}
	return &pb.Totals{
		At:                    &pb.Moment{MonoNs: t.At.Mono, WallNs: t.At.Wall},
		NextSeq:               t.Next,
		CpuNs:                 one(usage.Quantity(usage.CPU)),
		DiskReadBytes:         one(usage.Quantity(usage.DiskRead)),
		DiskWriteBytes:        one(usage.Quantity(usage.DiskWritten)),
		NetworkRxBytes:        one(usage.Quantity(usage.NetReceived)),
		NetworkTxBytes:        one(usage.Quantity(usage.NetSent)),
		MemoryAllocatedByteNs: known(t.Amount, usage.Quantity(usage.Allocated)),
		MemoryResidentByteNs:  known(t.Amount, usage.Quantity(usage.Resident)),
		RunningNs:             t.Of[usage.RunningNs].Lo,
		PausedNs:              t.Of[usage.PausedNs].Lo,
		OtherNs:               t.Of[usage.OtherNs].Lo,
		UnobservedNs:          t.Of[usage.UnobservedNs].Lo,
		GapTicks:              t.Of[usage.GapTicks].Lo,
		Incomplete:            setToProto(t.Incomplete),
	}
}

// known is a quantity on the wire; nil for one that nobody measured.
func known(a usage.Amount, q usage.Quantity) *pb.Uint128 {
	v, ok := a.Known(q)
	if !ok {
		return nil
	}
	return &pb.Uint128{Hi: v.Hi, Lo: v.Lo}
}

func usageToProto(w store.Window) *pb.Usage {
	a := w.Amount
	return &pb.Usage{
		CpuNs:                 known(a, usage.Quantity(usage.CPU)),
		MemoryAllocatedByteNs: known(a, usage.Quantity(usage.Allocated)),
		MemoryResidentByteNs:  known(a, usage.Quantity(usage.Resident)),
		DiskReadBytes:         known(a, usage.Quantity(usage.DiskRead)),
		DiskWriteBytes:        known(a, usage.Quantity(usage.DiskWritten)),
		NetworkRxBytes:        known(a, usage.Quantity(usage.NetReceived)),
		NetworkTxBytes:        known(a, usage.Quantity(usage.NetSent)),
		RunningNs:             known(a, usage.RunningNs),
		PausedNs:              known(a, usage.PausedNs),
		OtherNs:               known(a, usage.OtherNs),
		UnobservedNs:          known(a, usage.UnobservedNs),
		GapTicks:              gapTicks(a.Of[usage.GapTicks]),
		Incomplete:            setToProto(a.Incomplete),
		ByTimestamps:          w.ByTimestamps,
	}
}

func gapTicks(u usage.U128) uint64 {
	if u.Hi > 0 {
		return math.MaxUint64
	}
	return u.Lo
}

// pointsFromProto reads ticks of a client that knows no incarnations. A negative counter is no reading: the batch is
// refused.
func pointsFromProto(list []*pb.VMMetrics) ([]usage.Point, bool) {
	points := make([]usage.Point, len(list))
	for i, m := range list {
		if m.GetTimestamp().CheckValid() != nil {
			return nil, false
		}
		points[i].Wall = m.GetTimestamp().AsTime().UnixNano()
		for f, v := range map[usage.Field]int64{
			usage.CPU: m.GetCpuTimeNanos(), usage.Resident: m.GetMemoryUsageBytes(), usage.DiskRead: m.GetDiskReadBytes(), usage.DiskWritten: m.GetDiskWriteBytes(),
			usage.NetReceived: m.GetNetworkRxBytes(), usage.NetSent: m.GetNetworkTxBytes(),
		} {
			if v < 0 {
				return nil, false
			}
			points[i].Reading.Put(f, uint64(v))
		}
	}
	return points, true
}
