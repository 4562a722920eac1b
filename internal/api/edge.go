package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
)

// routes is every path that the API serves.
func (a *API) routes(s *service, options []connect.HandlerOption) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(vmprovisionerv1connect.NewVmServiceHandler(s, options...))
	bounds := []connect.HandlerOption{
		connect.WithCompressMinBytes(compressMinBytes),
		connect.WithReadMaxBytes(maxMessageBytes),
		connect.WithCompression("gzip", newBoundedGzip, newGzip),
	}
	mux.Handle(grpchealth.NewHandler(a.readiness, bounds...))
	if a.cfg.Reflection {
		reflector := grpcreflect.NewStaticReflector(vmprovisionerv1connect.VmServiceName, grpchealth.HealthV1ServiceName)
		mux.Handle(grpcreflect.NewHandlerV1(reflector, bounds...))
		mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, bounds...))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readiness.serveHTTP)
	if a.cfg.Metrics != nil {
		mux.HandleFunc("GET /metrics", a.serveMetrics)
	}
	mux.HandleFunc("GET /usage/export", s.serveExport)
	mux.HandleFunc("GET /usage/audit", s.serveAudit)
	return mux
}

// serveMetrics answers in Prometheus' text format.
func (a *API) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	_ = a.cfg.Metrics(w) // the caller has gone
}

const servicePrefix = "/" + vmprovisionerv1connect.VmServiceName + "/"

// edge is what every request passes on its way in and out.
func (a *API) edge(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.running.enter() {
			http.Error(w, "metald is stopping", http.StatusServiceUnavailable)
			return
		}
		defer a.running.leave()
		c, r := newCall(w, r, &a.cfg.timeouts)
		c.rpc = strings.HasPrefix(r.URL.Path, servicePrefix)
		defer a.finish(c, r)
		if !a.hosts.allows(r.Host) {
			refuseHost(c, r.Host)
			return
		}
		next.ServeHTTP(c, r)
	})
}

// finish logs a call that failed, and survives a handler that panicked outside of an RPC.
func (a *API) finish(c *call, r *http.Request) {
	if value := recover(); value != nil {
		if value == http.ErrAbortHandler {
			panic(value) // how net/http is told to drop a connection
		}
		c.err, c.code = fmt.Errorf("panic: %v\n%s", value, debug.Stack()), connect.CodeInternal
		if c.status == 0 {
			http.Error(c, "internal error; the log of metald says more", http.StatusInternalServerError)
		}
	}
	if c.err == nil && c.code == 0 {
		c.code = wireCode(c)
	}
	if c.err != nil || c.code != 0 || c.status >= http.StatusBadRequest {
		a.logFailure(c, r)
	}
}

// wireCode is the code with which connect itself ended a gRPC call before any code of ours saw it, such as for a
// request that is too large; 0 for none.
func wireCode(c *call) connect.Code {
	if !c.rpc {
		return 0
	}
	header := c.Header()
	for _, key := range []string{"Grpc-Status", http.TrailerPrefix + "Grpc-Status"} {
		if values := header[key]; len(values) > 0 && values[0] != "0" {
			var code connect.Code
			if _, err := fmt.Sscan(values[0], &code); err == nil {
				return code
			}
		}
	}
	return 0
}

const maxLoggedText = 4 << 10

// logFailure writes the one line that a failed call leaves.
func (a *API) logFailure(c *call, r *http.Request) {
	attrs := []slog.Attr{
		slog.String("path", clip(r.URL.Path, 256)),
		slog.String("peer", r.RemoteAddr),
		slog.Duration("took", time.Since(c.started)),
		slog.Int("status", c.status),
	}
	if c.code != 0 {
		attrs = append(attrs, slog.String("code", c.code.String()))
	}
	if c.vmID != "" {
		attrs = append(attrs, slog.String("vm_id", clip(c.vmID, 64)))
	}
	if c.err != nil {
		attrs = append(attrs, slog.String("error", clip(c.err.Error(), maxLoggedText)))
	}
	a.cfg.Log.LogAttrs(r.Context(), levelOf(c), "call failed", attrs...)
}

// levelOf is Error for what whoever runs metald should look into, Info for what callers did.
func levelOf(c *call) slog.Level {
	if errors.Is(c.err, errDraining) {
		return slog.LevelInfo // whoever runs metald has stopped it
	}
	switch c.code {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeUnavailable, connect.CodeDataLoss:
		return slog.LevelError
	}
	if c.code == 0 && (c.status == http.StatusInternalServerError || c.status == http.StatusServiceUnavailable) {
		return slog.LevelError // connect's 501 and 504 are for what clients sent, and how slowly
	}
	return slog.LevelInfo
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
