package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Sizes of requests and responses. A config within the rules of the proto file is below 256 KiB however it is written.
const (
	maxMessageBytes  = 256 << 10 // a request, decompressed too
	maxBodyBytes     = 1 << 20   // what is read of a body at all
	compressMinBytes = 4 << 10   // below this, compression costs more time than it saves
)

// rpcOptions are what every RPC of the service is served with.
func rpcOptions(i *interceptor) []connect.HandlerOption {
	options := []connect.HandlerOption{
		connect.WithCompressMinBytes(compressMinBytes),
		connect.WithReadMaxBytes(maxMessageBytes),
		connect.WithCompression("gzip", newBoundedGzip, newGzip),
		connect.WithInterceptors(i),
		connect.WithRecover(recovered),
	}
	for _, codec := range jsonCodecs() {
		options = append(options, connect.WithCodec(codec))
	}
	return options
}

// interceptor holds requests to the rules and turns errors into Connect errors. It leaves the error as it was for
// the log line of the call.
type interceptor struct {
	check  *validator
	faults *faults
}

// WrapUnary wraps a unary RPC.
func (i *interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		err := i.check.check(req.Any())
		if err == nil {
			var resp connect.AnyResponse
			if resp, err = next(ctx, req); err == nil {
				return resp, nil
			}
		}
		return nil, i.failed(ctx, req.Any(), err)
	}
}

// WrapStreamingHandler wraps a streaming RPC.
func (i *interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		checked := &checkedConn{StreamingHandlerConn: conn, check: i.check}
		if err := next(ctx, checked); err != nil {
			return i.failed(ctx, checked.request, err)
		}
		return nil
	}
}

// WrapStreamingClient is for clients, which this is not.
func (i *interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i *interceptor) failed(ctx context.Context, request any, err error) error {
	var vmID string
	if named, ok := request.(interface{ GetVmId() string }); ok {
		vmID = named.GetVmId()
	}
	if kindOf(err) == types.KindCanceled && errors.Is(context.Cause(ctx), errDraining) {
		err = errDraining // the caller did not give up
	}
	out := i.faults.toConnect(err, vmID)
	if c := callOf(ctx); c != nil {
		c.err, c.code, c.vmID = err, out.Code(), vmID
	}
	return out
}

// checkedConn checks the request of a stream as it is received.
type checkedConn struct {
	connect.StreamingHandlerConn
	check   *validator
	request any
}

// Receive reads the request and holds it to the rules.
func (c *checkedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	c.request = message
	return c.check.check(message)
}

// recovered makes an error of a panic in a handler.
func recovered(_ context.Context, spec connect.Spec, _ http.Header, value any) error {
	return &types.Error{
		Kind: types.KindInternal,
		Msg:  "panic in " + spec.Procedure,
		Err:  fmt.Errorf("%v\n%s", value, debug.Stack()),
	}
}
