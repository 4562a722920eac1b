package receiver

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

// GetActiveBillingSessions lists the incarnations of a host that are not closed.
func (s *service) GetActiveBillingSessions(ctx context.Context, req *connect.Request[pb.GetActiveBillingSessionsRequest]) (*connect.Response[pb.GetActiveBillingSessionsResponse], error) {
	host := req.Msg.GetInstanceId()
	sessions, err := s.cfg.Store.Sessions(ctx, host)
	if err != nil {
		return nil, err
	}
	heard, err := s.cfg.Store.Heard(ctx, host)
	if err != nil {
		return nil, err
	}
	unreachable := heard != 0 && s.cfg.Now().UnixNano()-heard > int64(s.cfg.Unreachable)
	resp := &pb.GetActiveBillingSessionsResponse{}
	for _, session := range sessions {
		resp.Sessions = append(resp.Sessions, &pb.BillingSession{
			VmId:        session.Incarnation.VM,
			CustomerId:  session.Customer,
			Incarnation: incarnationToProto(session.Incarnation),
			NextSeq:     session.Next,
			Totals:      totalsToProto(session.Totals),
			State:       sessionState(session.Phase, unreachable),
			Chain:       session.Chain[:],
		})
	}
	return connect.NewResponse(resp), nil
}

func sessionState(phase store.Phase, unreachable bool) pb.SessionState {
	switch {
	case phase == store.PhaseClosing:
		return pb.SessionState_SESSION_STATE_CLOSING
	case unreachable:
		return pb.SessionState_SESSION_STATE_UNREACHABLE
	}
	return pb.SessionState_SESSION_STATE_ACTIVE
}

// maxWindows bounds an answer.
const maxWindows = 100_000

// GetUsage answers what was used, in whole hours.
func (s *service) GetUsage(ctx context.Context, req *connect.Request[pb.GetUsageRequest]) (*connect.Response[pb.GetUsageResponse], error) {
	m := req.Msg
	q := store.Query{VM: m.GetVmId(), Customer: m.GetTenantId(), From: m.GetFrom().GetSeconds(), To: m.GetTo().GetSeconds(), Step: int64(m.GetStepSeconds())}
	for name, n := range map[string]int64{"from": q.From, "to": q.To, "step_seconds": q.Step} {
		if n%store.HourSeconds != 0 || m.GetFrom().GetNanos() != 0 || m.GetTo().GetNanos() != 0 {
			return nil, fmt.Errorf("%w: %s is not a whole hour; the ledger has a row per hour", store.ErrInvalid, name)
		}
	}
	if q.Step > 0 && (q.To-q.From)/q.Step > maxWindows {
		return nil, fmt.Errorf("%w: that is more than %d windows; take a longer step", store.ErrInvalid, maxWindows)
	}
	windows, quarantined, err := s.cfg.Store.Usage(ctx, q)
	if err != nil {
		return nil, err
	}
	resp := &pb.GetUsageResponse{Quarantined: quarantined}
	for _, w := range windows {
		out := &pb.UsageWindow{Usage: usageToProto(w)}
		if m.GetFrom() != nil {
			out.From, out.To = &timestamppb.Timestamp{Seconds: w.From}, &timestamppb.Timestamp{Seconds: w.To}
		}
		resp.Windows = append(resp.Windows, out)
	}
	return connect.NewResponse(resp), nil
}
