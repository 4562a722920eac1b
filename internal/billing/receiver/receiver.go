// Package receiver serves billing.v1.BillingService: it holds requests to the rules of the proto file, translates, and
// asks the ledger.
package receiver

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

// Config is what a receiver is made of. All but Hosts, Now, Audited and Token is required.
type Config struct {
	Store       *store.Store
	Key         ed25519.PrivateKey // countersigns chain heads
	Unreachable time.Duration      // how long a host may be silent before its VMs are called unreachable
	Log         *slog.Logger
	Hosts       []string         // names under which clients may call, besides localhost and IP addresses
	Now         func() time.Time // for heartbeats and signatures, never for durations of usage; nil: time.Now
	Audited     func() Audited   // what audits came to; nil: there are none
	Token       string           // that callers of the RPCs present; "": none
}

// maxMessageBytes is the most that a request has: a heartbeat of 100,000 VMs has some 20 MB.
const maxMessageBytes = 32 << 20

// New returns the handler of everything that billaged serves.
func New(cfg Config) (http.Handler, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Audited == nil {
		cfg.Audited = func() Audited { return Audited{} }
	}
	rules, err := newRules()
	if err != nil {
		return nil, err
	}
	s := &service{cfg: cfg, counts: &counts{}}
	mux := http.NewServeMux()
	options := []connect.HandlerOption{connect.WithReadMaxBytes(maxMessageBytes), connect.WithInterceptors(&edge{rules, cfg.Log, cfg.Token})}
	mux.Handle(billingv1connect.NewBillingServiceHandler(s, options...))
	mux.Handle(grpchealth.NewHandler(health{cfg.Store}, connect.WithReadMaxBytes(1<<10)))
	mux.HandleFunc("GET /metrics", metrics(s.counts, cfg.Store, cfg.Now, cfg.Audited))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := cfg.Store.Ping(r.Context()); err != nil {
			http.Error(w, "the ledger cannot be written to: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return guard(mux, cfg.Hosts), nil
}

// guard refuses requests to a name that is not billaged's: so a web page whose name leads here cannot make a browser
// call.
func guard(next http.Handler, names []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := (&url.URL{Host: r.Host}).Hostname()
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" && !slices.Contains(names, host) {
			http.Error(w, "this name is not among the allowed hosts", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func newRules() (protovalidate.Validator, error) {
	methods := pb.File_billing_v1_billing_proto.Services().ByName("BillingService").Methods()
	options := []protovalidate.ValidatorOption{protovalidate.WithDisableLazy()}
	for i := range methods.Len() {
		options = append(options, protovalidate.WithMessageDescriptors(methods.Get(i).Input()))
	}
	rules, err := protovalidate.New(options...)
	if err != nil {
		return nil, fmt.Errorf("compile the rules of the proto file: %w", err)
	}
	return rules, nil
}

// health answers grpc.health.v1.
type health struct{ store *store.Store }

// Check says whether the ledger can be written to.
func (h health) Check(ctx context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if req.Service != "" && req.Service != billingv1connect.BillingServiceName {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such service is served here"))
	}
	if h.store.Ping(ctx) != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// edge is what every call passes: the rules of the proto file on its way in, codes of errors on its way out.
type edge struct {
	rules protovalidate.Validator
	log   *slog.Logger
	token string
}

// WrapUnary wraps a unary RPC.
func (e *edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if !e.allowed(req.Header().Get("Authorization")) {
			e.log.Warn("call without the token", "rpc", req.Spec().Procedure, "peer", req.Peer().Addr)
			return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("the token is missing or wrong: send it as Authorization: Bearer, with the value of UNKEY_BILLAGED_TOKEN"))
		}
		if m, ok := req.Any().(proto.Message); ok {
			if err := e.rules.Validate(m); err != nil {
				return nil, connect.NewError(connect.CodeInvalidArgument, err)
			}
		}
		resp, err := next(ctx, req)
		if err == nil {
			return resp, nil
		}
		code := codeOf(err)
		e.log.Warn("call failed", "rpc", req.Spec().Procedure, "code", code.String(), "error", err)
		if code == connect.CodeInternal {
			err = errors.New("internal error; the log of billaged says more")
		}
		return nil, connect.NewError(code, err)
	}
}

// allowed says whether a call carries the token, in a time that says nothing about it.
func (e *edge) allowed(header string) bool {
	want, got := sha256.Sum256([]byte("Bearer "+e.token)), sha256.Sum256([]byte(header))
	return e.token == "" || subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// WrapStreamingHandler is for streams, of which there are none.
func (e *edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// WrapStreamingClient is for clients, which this is not.
func (e *edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func codeOf(err error) connect.Code {
	var known *connect.Error
	switch {
	case errors.As(err, &known):
		return known.Code()
	case errors.Is(err, store.ErrCustomer):
		return connect.CodePermissionDenied
	case errors.Is(err, store.ErrUnknown):
		return connect.CodeFailedPrecondition
	case errors.Is(err, store.ErrInvalid):
		return connect.CodeInvalidArgument
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeInternal
}
