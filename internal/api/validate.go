package api

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// validator holds requests to the rules of the proto file.
type validator struct{ rules protovalidate.Validator }

// newValidator compiles the rules of every request once, so that the first caller does not pay for it.
func newValidator() (*validator, error) {
	methods := pb.File_vmprovisioner_v1_vmprovisioner_proto.Services().ByName("VmService").Methods()
	options := []protovalidate.ValidatorOption{protovalidate.WithDisableLazy()}
	for i := range methods.Len() {
		options = append(options, protovalidate.WithMessageDescriptors(methods.Get(i).Input()))
	}
	rules, err := protovalidate.New(options...)
	if err != nil {
		return nil, fmt.Errorf("compile the rules of the proto file: %w", err)
	}
	return &validator{rules: rules}, nil
}

// check returns the faults of a request, each with the path of its field, or nil.
func (v *validator) check(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return types.Errorf(types.KindInternal, "%T is not a message", message)
	}
	if fault := undecodable(m); fault != nil {
		return fieldErrors{fault}
	}
	err := v.rules.Validate(m)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return fmt.Errorf("check %T: %w", message, err)
	}
	var faults fieldErrors
	for _, violation := range broken.Violations {
		faults = append(faults, &types.Error{
			Kind:  types.KindInvalid,
			Field: violatedField(violation),
			Msg:   violation.Proto.GetMessage(),
		})
	}
	return faults
}

// violatedField is the path of the field that a violation blames. A rule over several fields of a message names the
// one to blame in its id: in.<field>.<what>.
func violatedField(v *protovalidate.Violation) string {
	path := protovalidate.FieldPathString(v.Proto.GetField())
	if rest, ok := strings.CutPrefix(v.Proto.GetRuleId(), "in."); ok {
		field, _, _ := strings.Cut(rest, ".")
		if path == "" {
			return field
		}
		return path + "." + field
	}
	return path
}
