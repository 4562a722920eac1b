package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
)

// ComponentStatus says whether a part of metald works.
type ComponentStatus struct {
	Name string
	Err  error  // nil: it works; otherwise why not, for people
	Note string // what else people should know; it makes nothing unready
}

// readiness says whether metald can take calls: all components work and it is not stopping.
type readiness struct {
	status   func() []ComponentStatus
	stopping context.Context
}

// faults returns why metald is not ready, one line per reason; nil if it is.
func (r *readiness) faults() []string {
	var lines []string
	if r.stopping.Err() != nil {
		lines = append(lines, "metald is stopping")
	}
	if r.status == nil {
		return lines
	}
	for _, component := range r.status() {
		if component.Err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", component.Name, component.Err))
		}
	}
	return lines
}

// notes are what components have to say of themselves, one line each.
func (r *readiness) notes() []string {
	if r.status == nil {
		return nil
	}
	var lines []string
	for _, component := range r.status() {
		if component.Note != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", component.Name, component.Note))
		}
	}
	return lines
}

func (r *readiness) serveHTTP(w http.ResponseWriter, _ *http.Request) {
	if faults := r.faults(); len(faults) > 0 {
		http.Error(w, strings.Join(faults, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
	for _, line := range r.notes() {
		fmt.Fprintln(w, line)
	}
}

// Check answers grpc.health.v1 for the server as a whole ("") and for the service.
func (r *readiness) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if req.Service != "" && req.Service != vmprovisionerv1connect.VmServiceName {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no service %q is served here", clip(req.Service, 128)))
	}
	if len(r.faults()) > 0 {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}
