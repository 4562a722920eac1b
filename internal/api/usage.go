package api

import (
	"context"
	"math"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	billing "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// GetUsage answers from metald's ledger.
func (s *service) GetUsage(ctx context.Context, req *connect.Request[billing.GetUsageRequest]) (*connect.Response[billing.GetUsageResponse], error) {
	if s.ledger == nil {
		return nil, errUnmetered
	}
	answer, err := s.ledger.Usage(ctx, queryFromProto(req.Msg))
	if err != nil {
		return nil, err
	}
	if id := req.Msg.GetVmId(); id != "" && !answer.Known { // deleted VMs stay in the ledger
		if _, err := s.vms.Get(types.VMID(id)); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(usageToProto(answer)), nil
}

func queryFromProto(m *billing.GetUsageRequest) ledger.Query {
	q := ledger.Query{VM: m.GetVmId(), Tenant: m.GetTenantId(), Step: time.Duration(m.GetStepSeconds()) * time.Second}
	if m.GetFrom() != nil {
		q.From, q.To = m.GetFrom().AsTime(), m.GetTo().AsTime()
	}
	return q
}

func usageToProto(a ledger.Answer) *billing.GetUsageResponse {
	out := &billing.GetUsageResponse{Quarantined: a.Quarantined}
	for _, w := range a.Windows {
		window := &billing.UsageWindow{Usage: amountToProto(w.Amount)}
		if !w.From.IsZero() {
			window.From, window.To = timestamppb.New(w.From), timestamppb.New(w.To)
		}
		out.Windows = append(out.Windows, window)
	}
	return out
}

func amountToProto(a usage.Amount) *billing.Usage {
	known := func(q usage.Quantity) *billing.Uint128 {
		v, ok := a.Known(q)
		if !ok {
			return nil
		}
		return &billing.Uint128{Hi: v.Hi, Lo: v.Lo}
	}
	gaps := a.Of[usage.GapTicks]
	if gaps.Hi > 0 {
		gaps.Lo = math.MaxUint64
	}
	return &billing.Usage{
		CpuNs:                 known(usage.Quantity(usage.CPU)),
		MemoryAllocatedByteNs: known(usage.Quantity(usage.Allocated)),
		MemoryResidentByteNs:  known(usage.Quantity(usage.Resident)),
		DiskReadBytes:         known(usage.Quantity(usage.DiskRead)),
		DiskWriteBytes:        known(usage.Quantity(usage.DiskWritten)),
		NetworkRxBytes:        known(usage.Quantity(usage.NetReceived)),
		NetworkTxBytes:        known(usage.Quantity(usage.NetSent)),
		RunningNs:             known(usage.RunningNs),
		PausedNs:              known(usage.PausedNs),
		OtherNs:               known(usage.OtherNs),
		UnobservedNs:          known(usage.UnobservedNs),
		GapTicks:              gaps.Lo,
		Incomplete:            measuresToProto(a.Incomplete),
	}
}

// measures are the wire's names of fields.
var measures = [usage.Fields]billing.Measure{
	usage.CPU:         billing.Measure_MEASURE_CPU,
	usage.DiskRead:    billing.Measure_MEASURE_DISK_READ,
	usage.DiskWritten: billing.Measure_MEASURE_DISK_WRITE,
	usage.NetReceived: billing.Measure_MEASURE_NETWORK_RX,
	usage.NetSent:     billing.Measure_MEASURE_NETWORK_TX,
	usage.Resident:    billing.Measure_MEASURE_MEMORY_RESIDENT,
	usage.Allocated:   billing.Measure_MEASURE_MEMORY_ALLOCATED,
}

func measuresToProto(set usage.Set) []billing.Measure {
	var list []billing.Measure
	for f := range usage.Field(usage.Fields) {
		if set.Has(f) {
			list = append(list, measures[f])
		}
	}
	return list
}

// metered puts into m what the ledger knows of the incarnation: what is billed is what is shown. Packets and operations
// are not metered.
func metered(m *pb.VmMetrics, now ledger.Now) {
	m.CpuUsagePercent = 0
	if now.OverNs > 0 {
		m.CpuUsagePercent = 100 * float64(now.CPUNs) / float64(now.OverNs)
	}
	if v, ok := now.Last.Value(usage.Resident); ok {
		m.MemoryUsageBytes = int64(v)
	}
	used := func(f usage.Field, to func(int64)) {
		if v, ok := now.Used.Known(usage.Quantity(f)); ok {
			to(int64(min(v.Lo, math.MaxInt64)))
		}
	}
	used(usage.DiskRead, func(n int64) { storage(m).BytesRead = n })
	used(usage.DiskWritten, func(n int64) { storage(m).BytesWritten = n })
	used(usage.NetReceived, func(n int64) { network(m).BytesReceived = n })
	used(usage.NetSent, func(n int64) { network(m).BytesTransmitted = n })
}

func storage(m *pb.VmMetrics) *pb.StorageStats {
	if m.StorageStats == nil {
		m.StorageStats = &pb.StorageStats{}
	}
	return m.StorageStats
}

func network(m *pb.VmMetrics) *pb.NetworkStats {
	if m.NetworkStats == nil {
		m.NetworkStats = &pb.NetworkStats{}
	}
	return m.NetworkStats
}
