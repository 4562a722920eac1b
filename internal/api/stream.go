package api

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
)

// The most console bytes in one message.
const maxConsoleMessage = 64 << 10

// chunks is what a console stream reads from; *console.Reader is one.
type chunks interface {
	Next(ctx context.Context, follow bool) (console.Chunk, error)
}

// consoleOpener returns the console of a VM from tail bytes before its end on; tail < 0: from its oldest byte.
type consoleOpener func(id types.VMID, tail int64) (chunks, error)

func openConsole(vms VMs) consoleOpener {
	return func(id types.VMID, tail int64) (chunks, error) {
		info, err := vms.Get(id)
		if err != nil {
			return nil, err
		}
		if c := info.Spec.Console; !c.Enabled || c.Output == "none" {
			return nil, types.Errorf(types.KindPrecondition, "VM %s was created with a config.console of which no output is kept", id)
		}
		log, err := vms.Console(id)
		if err != nil {
			return nil, err
		}
		return log.Reader(tail), nil
	}
}

func (s *service) StreamConsole(ctx context.Context, req *connect.Request[pb.StreamConsoleRequest], stream *connect.ServerStream[pb.StreamConsoleResponse]) error {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return types.Errorf(types.KindExhausted, "%d console streams are open, which is the most; close one", cap(s.streams))
	}
	tail := req.Msg.GetTailBytes()
	if tail == 0 {
		tail = -1
	}
	from, err := s.console(types.VMID(req.Msg.GetVmId()), tail)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errDraining) })()
	if err := stream.Send(nil); err != nil { // the header: a client need not wait for the guest to say something
		return clientGone(err)
	}
	return copyConsole(ctx, from, req.Msg.GetFollow(), stream.Send)
}

var errDraining = types.Errorf(types.KindUnavailable, "metald is stopping; the VM goes on, ask again once metald is back")

// copyConsole sends what there is to read until the console ends, the client leaves, or a send is not taken in time.
func copyConsole(ctx context.Context, from chunks, follow bool, send func(*pb.StreamConsoleResponse) error) error {
	for {
		chunk, err := from.Next(ctx, follow)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		if err := sendChunk(chunk, send); err != nil {
			return clientGone(err)
		}
	}
}

func clientGone(err error) error {
	return types.Errorf(types.KindCanceled, "the client does not take the console's output: %w", err)
}

// sendChunk sends a chunk in messages of bounded size; the first of them tells of the lost bytes.
func sendChunk(chunk console.Chunk, send func(*pb.StreamConsoleResponse) error) error {
	for first := true; first || len(chunk.Bytes) > 0; first = false {
		n := min(len(chunk.Bytes), maxConsoleMessage)
		err := send(&pb.StreamConsoleResponse{Data: chunk.Bytes[:n], Offset: chunk.Offset, LostBytes: chunk.Lost})
		if err != nil {
			return err
		}
		chunk.Bytes, chunk.Offset, chunk.Lost = chunk.Bytes[n:], chunk.Offset+int64(n), 0
	}
	return nil
}
