package api

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// How long a guest may take to power off if the request does not say.
const defaultShutdownTimeout = 30 * time.Second

// service answers the RPCs. Requests have passed the rules of the proto file before.
type service struct {
	vms      VMs
	ledger   Ledger // nil: there is none
	faults   *faults
	backend  string
	caps     map[string]types.Capabilities
	console  consoleOpener
	streams  chan struct{}   // a slot per open console stream
	stopping context.Context // ends when the API begins to stop, and every stream with it
}

func (s *service) CreateVm(ctx context.Context, req *connect.Request[pb.CreateVmRequest]) (*connect.Response[pb.CreateVmResponse], error) {
	asked := req.Msg.GetBackend()
	backend := cmp.Or(asked, s.backend)
	caps, known := s.caps[backend]
	if !known {
		return nil, types.UnknownBackend(backend, slices.Sorted(maps.Keys(s.caps)))
	}
	spec := specFromProto(req.Msg.GetConfig())
	if refused := caps.Refusals(backend, spec); len(refused) > 0 {
		return nil, fieldErrors(refused)
	}
	info, err := s.vms.CreateOn(ctx, vm.CreateRequest{Backend: asked, ID: types.VMID(req.Msg.GetVmId()), Tenant: req.Msg.GetTenantId(), Spec: spec})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.CreateVmResponse{VmId: string(info.ID), State: stateToProto(info.State)}), nil
}

func (s *service) DeleteVm(ctx context.Context, req *connect.Request[pb.DeleteVmRequest]) (*connect.Response[pb.DeleteVmResponse], error) {
	if err := s.vms.Delete(ctx, types.VMID(req.Msg.GetVmId()), req.Msg.GetForce()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.DeleteVmResponse{Success: true}), nil
}

func (s *service) BootVm(ctx context.Context, req *connect.Request[pb.BootVmRequest]) (*connect.Response[pb.BootVmResponse], error) {
	info, err := s.vms.Boot(ctx, types.VMID(req.Msg.GetVmId()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.BootVmResponse{Success: true, State: stateToProto(info.State)}), nil
}

func (s *service) ShutdownVm(ctx context.Context, req *connect.Request[pb.ShutdownVmRequest]) (*connect.Response[pb.ShutdownVmResponse], error) {
	timeout := defaultShutdownTimeout
	if seconds := req.Msg.GetTimeoutSeconds(); seconds != 0 {
		timeout = time.Duration(seconds) * time.Second
	}
	info, err := s.vms.Shutdown(ctx, types.VMID(req.Msg.GetVmId()), req.Msg.GetForce(), timeout)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ShutdownVmResponse{Success: true, State: stateToProto(info.State)}), nil
}

func (s *service) PauseVm(ctx context.Context, req *connect.Request[pb.PauseVmRequest]) (*connect.Response[pb.PauseVmResponse], error) {
	info, err := s.vms.Pause(ctx, types.VMID(req.Msg.GetVmId()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.PauseVmResponse{Success: true, State: stateToProto(info.State)}), nil
}

func (s *service) ResumeVm(ctx context.Context, req *connect.Request[pb.ResumeVmRequest]) (*connect.Response[pb.ResumeVmResponse], error) {
	info, err := s.vms.Resume(ctx, types.VMID(req.Msg.GetVmId()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ResumeVmResponse{Success: true, State: stateToProto(info.State)}), nil
}

func (s *service) RebootVm(ctx context.Context, req *connect.Request[pb.RebootVmRequest]) (*connect.Response[pb.RebootVmResponse], error) {
	info, err := s.vms.Reboot(ctx, types.VMID(req.Msg.GetVmId()), req.Msg.GetForce(), defaultShutdownTimeout)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RebootVmResponse{Success: true, State: stateToProto(info.State)}), nil
}

func (s *service) GetVmInfo(ctx context.Context, req *connect.Request[pb.GetVmInfoRequest]) (*connect.Response[pb.GetVmInfoResponse], error) {
	info, err := s.vms.Get(types.VMID(req.Msg.GetVmId()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetVmInfoResponse{
		VmId:              string(info.ID),
		Config:            specToProto(info.Spec),
		State:             stateToProto(info.State),
		Metrics:           s.metrics(ctx, info),
		BackendInfo:       backendInfo(info),
		CreatedTimestamp:  unixSeconds(info.CreatedAt),
		ModifiedTimestamp: unixSeconds(info.ModifiedAt),
		TenantId:          info.Tenant,
	}), nil
}

// metrics returns what is measured of a VM that has a VMM with a guest in it; nil where nothing is.
func (s *service) metrics(ctx context.Context, info vm.Info) *pb.VmMetrics {
	if info.State != lifecycle.Running && info.State != lifecycle.Paused {
		return nil
	}
	usage, err := s.vms.Usage(ctx, info.ID)
	if err != nil {
		usage = types.Usage{} // unknown, and shown as such
	}
	m := metricsToProto(info, usage, time.Now())
	if s.ledger != nil {
		if now, ok := s.ledger.Latest(string(info.ID)); ok {
			metered(m, now)
		}
	}
	return m
}

func (s *service) ListVms(_ context.Context, req *connect.Request[pb.ListVmsRequest]) (*connect.Response[pb.ListVmsResponse], error) {
	states := statesFromProto(req.Msg.GetStateFilter())
	after, err := parsePageToken(req.Msg.GetPageToken(), states)
	if err != nil {
		return nil, err
	}
	page := s.vms.List(vm.ListQuery{States: states, After: after, Limit: pageSize(req.Msg.GetPageSize())})
	return connect.NewResponse(pageToProto(page, states)), nil
}
