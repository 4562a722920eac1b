package api

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// jsonCodec is the JSON of the API: protojson, with a field that is not known refused instead of dropped.
//
// connect decodes a request before any interceptor runs, and gives an error of the codec to the client as it is,
// without details. So a request that cannot be decoded does not fail here: the fault is planted in the message, and
// the check of the rules, which sees every message first, reports it like any other fault of the request.
type jsonCodec struct{ name string }

// jsonCodecs are for the two names under which connect looks for JSON.
func jsonCodecs() []jsonCodec {
	return []jsonCodec{{name: "json"}, {name: "json; charset=utf-8"}}
}

// Name is the content type after "application/".
func (c jsonCodec) Name() string { return c.name }

// IsBinary says that it is text.
func (c jsonCodec) IsBinary() bool { return false }

// Marshal writes message.
func (c jsonCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend writes message after dst. What is zero is left out, but never a state.
func (c jsonCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message", message)
	}
	return protojson.MarshalOptions{EmitDefaultValues: hasZeroState(message)}.MarshalAppend(dst, m)
}

// MarshalStable writes message for a URL.
func (c jsonCodec) MarshalStable(message any) ([]byte, error) { return c.Marshal(message) }

func hasZeroState(message any) bool {
	switch m := message.(type) {
	case interface{ GetState() pb.VmState }:
		return m.GetState() == pb.VmState_VM_STATE_UNSPECIFIED
	case *pb.ListVmsResponse:
		for _, info := range m.GetVms() {
			if info.GetState() == pb.VmState_VM_STATE_UNSPECIFIED {
				return true
			}
		}
	}
	return false
}

// Unmarshal reads message.
func (c jsonCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a message", message)
	}
	err := protojson.UnmarshalOptions{RecursionLimit: 32}.Unmarshal(data, m)
	if err != nil {
		plant(m, jsonFault(data, err))
	}
	return nil
}

// jsonFault says in words what is wrong with a JSON body, and where.
func jsonFault(data []byte, err error) *types.Error {
	if len(strings.TrimSpace(string(data[:min(len(data), 64)]))) == 0 && len(data) <= 64 {
		return types.Errorf(types.KindInvalid, "the body is empty; send a JSON object, {} if there is nothing to say")
	}
	// protojson puts a space of random width after its name, so that nobody compares the text.
	text := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	fault := types.Errorf(types.KindInvalid, "%s", text)
	if at := position.FindStringSubmatch(text); at != nil {
		line, _ := strconv.Atoi(at[1])
		column, _ := strconv.Atoi(at[2])
		fault.Field = jsonPath(data, line, column)
	}
	return fault
}

// position finds where protojson says that an error is.
var position = regexp.MustCompile(`\(line (\d+):(\d+)\)`)

// plantedField is a field number that no message of ours has. In JSON there are no numbers, so a client cannot
// send it; in the binary format it can, and gets the error that it made up.
const plantedField = protowire.MaxValidNumber

// plant empties m and leaves the fault in it, for undecodable to find.
func plant(m proto.Message, fault *types.Error) {
	proto.Reset(m)
	text, err := proto.Marshal(&errdetails.BadRequest_FieldViolation{
		Field: strings.ToValidUTF8(fault.Field, "?"), Description: strings.ToValidUTF8(fault.Msg, "?"),
	})
	if err != nil {
		text = nil
	}
	raw := protowire.AppendTag(nil, plantedField, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendBytes(raw, text))
}

// undecodable returns the fault that was planted in m; nil for a message that was decoded.
func undecodable(m proto.Message) *types.Error {
	raw := m.ProtoReflect().GetUnknown()
	if len(raw) == 0 {
		return nil
	}
	number, wire, n := protowire.ConsumeTag(raw)
	if n < 0 || number != plantedField || wire != protowire.BytesType {
		return nil
	}
	text, n := protowire.ConsumeBytes(raw[n:])
	var violation errdetails.BadRequest_FieldViolation
	if err := errors.Join(protowire.ParseError(min(n, 0)), proto.Unmarshal(text, &violation)); err != nil {
		return types.Errorf(types.KindInvalid, "the request cannot be decoded")
	}
	return types.FieldErrorf(types.KindInvalid, violation.GetField(), "%s", violation.GetDescription())
}
