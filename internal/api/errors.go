package api

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "metald"

// errorCode is a row of the table that turns kinds of error into Connect codes.
type errorCode struct {
	kind    types.Kind
	code    connect.Code
	reason  string // of google.rpc.ErrorInfo
	meaning string // for docs/api-reference.md
}

// errorCodes is the whole table; docs/api-reference.md is generated from it.
var errorCodes = [...]errorCode{
	{types.KindInvalid, connect.CodeInvalidArgument, "INVALID_ARGUMENT", "a field is wrong, whatever the state of the VM; the error names it. Correct the request"},
	{types.KindNotFound, connect.CodeNotFound, "NOT_FOUND", "no VM has this id"},
	{types.KindExists, connect.CodeAlreadyExists, "ALREADY_EXISTS", "the id belongs to a VM with another config, of another tenant, or on another backend"},
	{types.KindPrecondition, connect.CodeFailedPrecondition, "FAILED_PRECONDITION", "not in this state; the error names the state that the VM is in, or what else is in the way"},
	{types.KindExhausted, connect.CodeResourceExhausted, "RESOURCE_EXHAUSTED", "no room: a limit of the host or of metald is reached, or the request is too large"},
	{types.KindUnsupported, connect.CodeUnimplemented, "UNSUPPORTED", "the backend cannot do it; the error names the field"},
	{types.KindUnavailable, connect.CodeUnavailable, "UNAVAILABLE", "the VMM is gone or does not answer, or metald is stopping. Ask GetVmInfo, then try again"},
	{types.KindDeadline, connect.CodeDeadlineExceeded, "DEADLINE_EXCEEDED", "it did not happen in time; a guest that did not power off is still RUNNING"},
	{types.KindAborted, connect.CodeAborted, "ABORTED", "another call for the same VM got in the way. Try again"},
	{types.KindCanceled, connect.CodeCanceled, "CANCELED", "the caller gave up"},
	{types.KindInternal, connect.CodeInternal, "INTERNAL", "a fault of metald's own; its log says more"},
}

func codeOf(kind types.Kind) errorCode {
	for _, row := range errorCodes {
		if row.kind == kind {
			return row
		}
	}
	return errorCodes[len(errorCodes)-1]
}

// ErrorCodesTable renders the table of error codes for the docs.
func ErrorCodesTable() string {
	var b strings.Builder
	b.WriteString("| code | HTTP | reason | when |\n|---|---|---|---|\n")
	for _, row := range errorCodes {
		b.WriteString("| `" + row.code.String() + "` | " + httpStatus(row.code) + " | `" + row.reason + "` | " + row.meaning + " |\n")
	}
	return b.String()
}

// httpStatus is what the Connect protocol answers for a code of the table.
func httpStatus(code connect.Code) string {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition:
		return "400"
	case connect.CodeNotFound:
		return "404"
	case connect.CodeAlreadyExists, connect.CodeAborted:
		return "409"
	case connect.CodeResourceExhausted:
		return "429"
	case connect.CodeCanceled:
		return "499"
	case connect.CodeUnimplemented:
		return "501"
	case connect.CodeUnavailable:
		return "503"
	case connect.CodeDeadlineExceeded:
		return "504"
	default:
		return "500"
	}
}

// fieldErrors are all the faults of one request, each about a field.
type fieldErrors []*types.Error

// Error returns the faults after each other.
func (e fieldErrors) Error() string {
	const most = 8 // a request can be wrong in more ways than anybody reads
	var texts []string
	for _, fault := range e[:min(len(e), most)] {
		texts = append(texts, fault.Error())
	}
	if len(e) > most {
		texts = append(texts, "and more")
	}
	return strings.Join(texts, "; ")
}

// kind is that of the worst fault: a wrong request stays wrong on any backend.
func (e fieldErrors) kind() types.Kind {
	for _, fault := range e {
		if fault.Kind == types.KindInvalid {
			return types.KindInvalid
		}
	}
	return e[0].Kind
}

// faults turns errors into what the client sees.
type faults struct {
	vms    VMs
	public []string // directories of the host that may be named
}

// toConnect returns the error for the client of a call about the VM vmID, which may be empty. Paths of the host that
// the client did not send are left out, and so is everything about an internal fault.
func (f *faults) toConnect(err error, vmID string) *connect.Error {
	if done := (*connect.Error)(nil); errors.As(err, &done) {
		return done
	}
	info, known := f.about(vmID)
	kind := kindOf(err)
	row := codeOf(kind)
	text := "internal error; the log of metald says more"
	if kind != types.KindInternal {
		text = redact(err.Error(), append(specPaths(info.Spec), f.public...))
	}
	out := connect.NewError(row.code, errors.New(text))
	violations := f.violations(err, info.Spec)
	if violations != nil && (kind == types.KindInvalid || kind == types.KindUnsupported) {
		addDetail(out, violations)
		return out
	}
	detail := &errdetails.ErrorInfo{Reason: row.reason, Domain: errorDomain, Metadata: map[string]string{}}
	if violations != nil {
		detail.Metadata["field"] = violations.GetFieldViolations()[0].GetField()
	}
	if vmID != "" {
		detail.Metadata["vm_id"] = vmID
	}
	if known {
		detail.Metadata["state"] = stateToProto(info.State).String()
	}
	addDetail(out, detail)
	return out
}

// kindOf knows, besides the manager's own kinds, the errors that may reach the API bare.
func kindOf(err error) types.Kind {
	var fields fieldErrors
	var refused *lifecycle.RefusedError
	switch {
	case errors.As(err, &fields):
		return fields.kind()
	case types.KindOf(err) != types.KindInternal:
		return types.KindOf(err)
	case errors.As(err, &refused):
		return types.KindPrecondition
	case errors.Is(err, context.DeadlineExceeded):
		return types.KindDeadline
	case errors.Is(err, context.Canceled):
		return types.KindCanceled
	}
	return types.KindInternal
}

// violations names the fields that err is about; nil if it is about none.
func (f *faults) violations(err error, spec types.Spec) *errdetails.BadRequest {
	var fields fieldErrors
	var one *types.Error
	if !errors.As(err, &fields) {
		if !errors.As(err, &one) || one.Field == "" {
			return nil
		}
		fields = fieldErrors{one}
	}
	out := &errdetails.BadRequest{}
	for _, fault := range fields {
		what := *fault
		what.Field = ""
		out.FieldViolations = append(out.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field:       fault.Field,
			Description: redact(what.Error(), append(specPaths(spec), f.public...)),
		})
	}
	return out
}

func addDetail(to *connect.Error, detail proto.Message) {
	if d, err := connect.NewErrorDetail(detail); err == nil {
		to.AddDetail(d)
	}
}
