package api

import (
	"math"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// The VMs on a page if the request does not say; the proto file bounds what it can say.
const defaultPageSize = 100

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPageSize
	}
	return int(asked)
}

func pageToProto(page vm.ListPage, states []lifecycle.State) *pb.ListVmsResponse {
	// One block of memory for all entries: a list is the API's largest answer.
	entries := make([]pb.VmInfo, len(page.VMs))
	out := &pb.ListVmsResponse{
		Vms:        make([]*pb.VmInfo, len(page.VMs)),
		TotalCount: int32(min(page.Total, math.MaxInt32)),
	}
	for i := range page.VMs {
		info, entry := &page.VMs[i], &entries[i]
		entry.VmId = string(info.ID)
		entry.State = stateToProto(info.State)
		entry.VcpuCount = int32(info.Spec.CPU.Count)
		entry.MemorySizeBytes = info.Spec.Memory.SizeBytes
		entry.CreatedTimestamp = unixSeconds(info.CreatedAt)
		entry.ModifiedTimestamp = unixSeconds(info.ModifiedAt)
		entry.Metadata = info.Spec.Metadata
		entry.Backend = info.Backend
		entry.TenantId = info.Tenant
		out.Vms[i] = entry
	}
	if page.Next != 0 {
		out.NextPageToken = pageToken(page.Next, states)
	}
	return out
}
