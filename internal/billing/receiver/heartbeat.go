package receiver

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"slices"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// SendHeartbeat notes that a host lives, takes totals, and countersigns the head of the host's chain.
func (s *service) SendHeartbeat(ctx context.Context, req *connect.Request[pb.SendHeartbeatRequest]) (*connect.Response[pb.SendHeartbeatResponse], error) {
	m := req.Msg
	if err := s.cfg.Store.Hear(ctx, m.GetInstanceId(), s.cfg.Now().UnixNano()); err != nil {
		return nil, err
	}
	for part := range slices.Chunk(m.GetTotals(), totalsPerRecord) {
		if err := s.announce(ctx, &pb.SendHeartbeatRequest{InstanceId: m.GetInstanceId(), Totals: part}); err != nil {
			return nil, err
		}
	}
	resp := &pb.SendHeartbeatResponse{Success: true}
	if m.GetChainHead() != nil {
		signed, err := s.counterSign(ctx, m)
		if err != nil {
			return nil, err
		}
		resp.CounterSignature = signed
	}
	return connect.NewResponse(resp), nil
}

// totalsPerRecord is how many totals one raw record has at most: 10,000 take some 3 MB.
const totalsPerRecord = 10_000

// announce takes the totals of a heartbeat.
func (s *service) announce(ctx context.Context, m *pb.SendHeartbeatRequest) error {
	raw, err := record(kindTotals, m)
	if err != nil {
		return err
	}
	announced := map[usage.Incarnation]usage.Totals{}
	for _, t := range m.GetTotals() {
		inc := incarnationFromProto(t.GetIncarnation())
		announced[inc] = announced[inc].Join(totalsFromProto(t.GetTotals()))
	}
	return s.cfg.Store.Announce(ctx, announced, raw)
}

// counterSign returns nil for a head that contradicts an earlier one.
func (s *service) counterSign(ctx context.Context, m *pb.SendHeartbeatRequest) (*pb.CounterSignature, error) {
	sign := func(h store.Head) store.Head {
		h.SignedAt = s.cfg.Now().UnixNano()
		h.Signature = ed25519.Sign(s.cfg.Key, SignedBytes(m.GetInstanceId(), h))
		return h
	}
	head, ok, err := s.cfg.Store.Sign(ctx, m.GetInstanceId(), store.Head{Records: m.GetChainHead().GetRecords(), Hash: m.GetChainHead().GetHash()}, sign)
	if err != nil {
		return nil, err
	}
	if !ok {
		s.cfg.Log.Error("a host's chain is not what was signed before: its log was cut or edited", "host", m.GetInstanceId(), "records", head.Records)
		return nil, nil
	}
	return &pb.CounterSignature{
		Head:       &pb.ChainHead{Records: head.Records, Hash: head.Hash},
		SignedAtNs: head.SignedAt,
		PublicKey:  s.cfg.Key.Public().(ed25519.PublicKey),
		Signature:  head.Signature,
	}, nil
}

// SignedBytes is what a countersignature signs, as the proto file says.
func SignedBytes(instance string, h store.Head) []byte {
	b := append([]byte("billing.v1.ChainHead\x00"+instance), 0)
	b = binary.BigEndian.AppendUint64(b, h.Records)
	b = append(b, h.Hash...)
	return binary.BigEndian.AppendUint64(b, uint64(h.SignedAt))
}
