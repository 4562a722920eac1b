package receiver

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

// A raw record is a byte for its kind and the message, in the wire's binary format.
const (
	kindBatch   = 'B'
	kindStarted = 'S'
	kindStopped = 'E'
	kindGap     = 'G'
	kindTotals  = 'T' // a heartbeat, of which the totals count
)

func record(kind byte, m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{kind}, m)
}

// Replay gives a raw record to a ledger, as if it came anew. So a ledger can be made of raw records alone.
func Replay(ctx context.Context, to *store.Store, raw []byte) error {
	if len(raw) == 0 {
		return fmt.Errorf("%w: an empty record", store.ErrInvalid)
	}
	s := &service{cfg: Config{Store: to}, counts: &counts{}}
	switch raw[0] {
	case kindBatch:
		return replay(ctx, raw[1:], &pb.SendMetricsBatchRequest{}, s.SendMetricsBatch)
	case kindStarted:
		return replay(ctx, raw[1:], &pb.NotifyVmStartedRequest{}, s.NotifyVmStarted)
	case kindStopped:
		return replay(ctx, raw[1:], &pb.NotifyVmStoppedRequest{}, s.NotifyVmStopped)
	case kindGap:
		return replay(ctx, raw[1:], &pb.NotifyPossibleGapRequest{}, s.NotifyPossibleGap)
	case kindTotals:
		var m pb.SendHeartbeatRequest
		if err := proto.Unmarshal(raw[1:], &m); err != nil {
			return err
		}
		return s.announce(ctx, &m)
	}
	return fmt.Errorf("%w: a record of kind %q", store.ErrInvalid, raw[0])
}

func replay[Q any, P interface {
	*Q
	proto.Message
}, R any](ctx context.Context, raw []byte, into P, call func(context.Context, *connect.Request[Q]) (*connect.Response[R], error)) error {
	if err := proto.Unmarshal(raw, into); err != nil {
		return err
	}
	_, err := call(ctx, connect.NewRequest((*Q)(into)))
	return err
}
