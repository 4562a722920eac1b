package receiver

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

// service answers the RPCs. Requests have passed the rules of the proto file before.
type service struct {
	cfg    Config
	counts *counts
}

// SendMetricsBatch applies a batch.
func (s *service) SendMetricsBatch(ctx context.Context, req *connect.Request[pb.SendMetricsBatchRequest]) (*connect.Response[pb.SendMetricsBatchResponse], error) {
	m := req.Msg
	raw, err := record(kindBatch, m)
	if err != nil {
		return nil, err
	}
	if m.GetIncarnation() == nil {
		return s.legacyBatch(ctx, m, raw)
	}
	b := store.Batch{
		Incarnation: incarnationFromProto(m.GetIncarnation()),
		Customer:    m.GetCustomerId(),
		First:       m.GetFirstSeq(),
		Last:        m.GetLastSeq(),
		Payload:     m.GetPayload(),
		Chain:       m.GetChain(),
		Raw:         raw,
	}
	if b.Incarnation.VM != m.GetVmId() {
		return nil, fmt.Errorf("%w: vm_id is %q and the incarnation's is %q", store.ErrInvalid, m.GetVmId(), b.Incarnation.VM)
	}
	if m.GetPayload() == nil {
		return nil, fmt.Errorf("%w: a batch of an incarnation needs a payload", store.ErrInvalid)
	}
	if m.GetTotals() != nil {
		totals := totalsFromProto(m.GetTotals())
		b.Totals = &totals
	}
	outcome, next, err := s.cfg.Store.Apply(ctx, b)
	if err != nil {
		return nil, err
	}
	resp := answer(outcome, next)
	s.counts.add(resp.GetStatus())
	return connect.NewResponse(resp), nil
}

func answer(outcome store.Outcome, next uint64) *pb.SendMetricsBatchResponse {
	resp := &pb.SendMetricsBatchResponse{NextSeq: next}
	switch outcome {
	case store.Applied:
		resp.Success, resp.Status = true, pb.BatchStatus_BATCH_STATUS_APPLIED
	case store.AppliedInPart:
		resp.Success, resp.Status = true, pb.BatchStatus_BATCH_STATUS_APPLIED_IN_PART
		resp.Message = "some values cannot be true; they are kept as evidence and not billed"
	case store.Duplicate:
		resp.Success, resp.Status = true, pb.BatchStatus_BATCH_STATUS_DUPLICATE
	case store.OutOfSequence:
		resp.Status = pb.BatchStatus_BATCH_STATUS_OUT_OF_SEQUENCE
		resp.Message = fmt.Sprintf("tick %d is expected next", next)
	case store.Unknown:
		resp.Status = pb.BatchStatus_BATCH_STATUS_UNKNOWN_INCARNATION
		resp.Message = store.ErrUnknown.Error()
	case store.ChainBroken:
		resp.Status = pb.BatchStatus_BATCH_STATUS_CHAIN_BROKEN
		resp.Message = fmt.Sprintf("the batch does not continue the hash chain that tick %d ended", next)
	}
	return resp
}

// legacyBatch takes a batch of a client that knows no incarnations.
func (s *service) legacyBatch(ctx context.Context, m *pb.SendMetricsBatchRequest, raw []byte) (*connect.Response[pb.SendMetricsBatchResponse], error) {
	points, ok := pointsFromProto(m.GetMetrics())
	if !ok {
		return nil, fmt.Errorf("%w: metrics with a negative value, or without a timestamp", store.ErrInvalid)
	}
	partly, err := s.cfg.Store.Points(ctx, m.GetVmId(), m.GetCustomerId(), points, raw)
	if err != nil {
		return nil, err
	}
	resp := answer(store.Applied, 0)
	if partly {
		resp = answer(store.AppliedInPart, 0)
	}
	s.counts.add(resp.GetStatus())
	return connect.NewResponse(resp), nil
}

// NotifyVmStarted opens an incarnation.
func (s *service) NotifyVmStarted(ctx context.Context, req *connect.Request[pb.NotifyVmStartedRequest]) (*connect.Response[pb.NotifyVmStartedResponse], error) {
	raw, err := record(kindStarted, req.Msg)
	if err != nil {
		return nil, err
	}
	if req.Msg.GetIncarnation() == nil {
		err = s.cfg.Store.BeginLegacy(ctx, req.Msg.GetVmId(), req.Msg.GetCustomerId())
	} else if start := startFromProto(req.Msg); start.Incarnation.VM != req.Msg.GetVmId() {
		err = fmt.Errorf("%w: vm_id is not that of the incarnation", store.ErrInvalid)
	} else {
		start.Raw = raw
		err = s.cfg.Store.Begin(ctx, start)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.NotifyVmStartedResponse{Success: true}), nil
}

// NotifyVmStopped ends an incarnation. From a client that knows none it changes nothing: what was used is known by its
// points, and a VM may start again.
func (s *service) NotifyVmStopped(ctx context.Context, req *connect.Request[pb.NotifyVmStoppedRequest]) (*connect.Response[pb.NotifyVmStoppedResponse], error) {
	if m := req.Msg; m.GetIncarnation() != nil {
		end := store.End{
			Incarnation: incarnationFromProto(m.GetIncarnation()),
			Final:       totalsFromProto(m.GetFinalTotals()),
			LastSeq:     m.GetFinalSeq(),
			Reason:      m.GetReason(),
		}
		var err error
		if end.Raw, err = record(kindStopped, m); err != nil {
			return nil, err
		}
		if err := s.cfg.Store.End(ctx, end); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&pb.NotifyVmStoppedResponse{Success: true}), nil
}

// NotifyPossibleGap notes lost ticks. From a client that knows none it changes nothing: its gaps show in its points.
func (s *service) NotifyPossibleGap(ctx context.Context, req *connect.Request[pb.NotifyPossibleGapRequest]) (*connect.Response[pb.NotifyPossibleGapResponse], error) {
	if m := req.Msg; m.GetIncarnation() != nil {
		raw, err := record(kindGap, m)
		if err != nil {
			return nil, err
		}
		next, err := s.cfg.Store.Miss(ctx, store.Gap{Incarnation: incarnationFromProto(m.GetIncarnation()), First: m.GetFirstMissingSeq(), Last: m.GetLastMissingSeq(), Raw: raw})
		if err != nil {
			return nil, err
		}
		if next < m.GetFirstMissingSeq() {
			return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New(answer(store.OutOfSequence, next).GetMessage()))
		}
	}
	return connect.NewResponse(&pb.NotifyPossibleGapResponse{Success: true}), nil
}
