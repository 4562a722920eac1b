package shipper

import (
	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

func incarnationToProto(i usage.Incarnation) *pb.Incarnation {
	return &pb.Incarnation{HostId: i.Host, VmId: i.VM, Epoch: i.Epoch, BootId: i.Boot, StartTicks: i.StartTicks}
}

func incarnationFromProto(p *pb.Incarnation) usage.Incarnation {
	return usage.Incarnation{Host: p.GetHostId(), VM: p.GetVmId(), Epoch: p.GetEpoch(), Boot: p.GetBootId(), StartTicks: p.GetStartTicks()}
}

func startToProto(l usage.Life) *pb.NotifyVmStartedRequest {
	known := func(f usage.Field) *uint64 {
		if v, ok := l.Baseline.Value(f); ok {
			return &v
		}
		return nil
	}
	return &pb.NotifyVmStartedRequest{
		VmId:        l.Incarnation.VM,
		CustomerId:  l.Customer,
		StartTime:   l.Start.Wall,
		Incarnation: incarnationToProto(l.Incarnation),
		Baseline: &pb.Baseline{
			At:                    &pb.Moment{MonoNs: l.Start.Mono, WallNs: l.Start.Wall},
			CpuNs:                 known(usage.CPU),
			DiskReadBytes:         known(usage.DiskRead),
			DiskWriteBytes:        known(usage.DiskWritten),
			NetworkRxBytes:        known(usage.NetReceived),
			NetworkTxBytes:        known(usage.NetSent),
			State:                 pb.VmState(l.State), // numbered alike
			MemoryAllocatedBytes:  known(usage.Allocated),
			CpuMilli:              l.Limits.CPUMilli,
			MemoryBytes:           l.Limits.MemoryBytes,
			DiskBytesPerSecond:    l.Limits.DiskBytesPerSecond,
			NetworkBytesPerSecond: l.Limits.NetBytesPerSecond,
			TickNs:                l.Limits.TickNs,
		},
	}
}

func totalsToProto(t usage.Totals) *pb.Totals {
	counter := func(f usage.Field) *uint64 {
		if t.Measured.Has(f) {
			return &t.Of[f].Lo
		}
		return nil
	}
	level := func(f usage.Field) *pb.Uint128 {
		if t.Measured.Has(f) {
			return &pb.Uint128{Hi: t.Of[f].Hi, Lo: t.Of[f].Lo}
		}
		return nil
	}
	p := &pb.Totals{
		At:                    &pb.Moment{MonoNs: t.At.Mono, WallNs: t.At.Wall},
		NextSeq:               t.Next,
		CpuNs:                 counter(usage.CPU),
		DiskReadBytes:         counter(usage.DiskRead),
		DiskWriteBytes:        counter(usage.DiskWritten),
		NetworkRxBytes:        counter(usage.NetReceived),
		NetworkTxBytes:        counter(usage.NetSent),
		MemoryAllocatedByteNs: level(usage.Allocated),
		MemoryResidentByteNs:  level(usage.Resident),
		RunningNs:             t.Of[usage.RunningNs].Lo,
		PausedNs:              t.Of[usage.PausedNs].Lo,
		OtherNs:               t.Of[usage.OtherNs].Lo,
		UnobservedNs:          t.Of[usage.UnobservedNs].Lo,
		GapTicks:              t.Of[usage.GapTicks].Lo,
	}
	for f, m := range measures() {
		if t.Incomplete.Has(usage.Field(f)) {
			p.Incomplete = append(p.Incomplete, m)
		}
	}
	return p
}

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
