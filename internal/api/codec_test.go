package api

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
)

func TestJSONPath(t *testing.T) {
	const text = `{"a":{"b":[1,{"c":[true,"x"]}],"d":"ä","e":null},
  "f":{"g":[]}}`
	for at, want := range map[string]string{
		`"a"`: "a", `"b"`: "a.b", `1,`: "a.b[0]", `"c"`: "a.b[1].c", `true`: "a.b[1].c[0]", `"x"`: "a.b[1].c[1]",
		`"d"`: "a.d", `"ä"`: "a.d", `"e"`: "a.e", `null`: "a.e", `"f"`: "f", `"g"`: "f.g", `[]`: "f.g",
	} {
		before := text[:strings.Index(text, at)]
		line := strings.Count(before, "\n") + 1
		column := len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
		if got := jsonPath([]byte(text), line, column); got != want {
			t.Errorf("at %s (%d:%d): %q, want %q", at, line, column, got, want)
		}
	}
}

func TestAStateThatIsZeroStillShows(t *testing.T) {
	for _, m := range []proto.Message{
		&pb.CreateVmResponse{VmId: "a"},
		&pb.GetVmInfoResponse{VmId: "a"},
		&pb.ListVmsResponse{Vms: []*pb.VmInfo{{VmId: "a", State: 1}, {VmId: "b"}}},
	} {
		text, err := jsonCodec{}.Marshal(m)
		if err != nil || !strings.Contains(string(text), "VM_STATE_UNSPECIFIED") {
			t.Errorf("%T: %s %v", m, text, err)
		}
	}
	text, err := jsonCodec{}.Marshal(&pb.GetVmInfoResponse{VmId: "a", State: 1, Metrics: &pb.VmMetrics{UptimeSeconds: 1}})
	if err != nil || strings.Contains(string(text), "memoryUsageBytes") {
		t.Errorf("what was not measured shows: %s %v", text, err)
	}
}

func TestAFaultCannotBePlantedFromOutside(t *testing.T) {
	raw := protowire.AppendTag(nil, plantedField, protowire.BytesType)
	raw = protowire.AppendBytes(raw, []byte{0xff})
	for _, text := range [][]byte{raw, append(raw, 1), protowire.AppendTag(nil, plantedField, protowire.BytesType)} {
		m := &pb.BootVmRequest{VmId: "a"}
		if proto.Unmarshal(text, m) != nil {
			m.ProtoReflect().SetUnknown(text)
		}
		if undecodable(m) == nil {
			t.Errorf("%x was taken for a request", text)
		}
	}
	ordinary := &pb.BootVmRequest{}
	if err := proto.Unmarshal(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1), ordinary); err != nil {
		t.Fatal(err)
	}
	if fault := undecodable(ordinary); fault != nil {
		t.Errorf("the field of a newer client was refused: %v", fault)
	}
}

// What is accepted comes back the same, and nothing panics.
func FuzzCreateJSON(f *testing.F) {
	f.Add([]byte(quickStart))
	f.Add([]byte(`{"config":null}`))
	f.Add([]byte("\n{\"\\u0000\":[[{}]]}"))
	f.Add([]byte(`{"config":{"storage":[{"readOnly":1}]}}`))
	f.Add([]byte(`{"config":{"network":[{"mac_address":"02:00:00:00:00:01"}],"console":{"enabled":true}}}`))
	check, err := newValidator()
	if err != nil {
		f.Fatal(err)
	}
	caps := allCapabilities()
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &pb.CreateVmRequest{}
		if err := (jsonCodec{}).Unmarshal(data, req); err != nil {
			t.Fatal(err)
		}
		if err := check.check(req); err != nil {
			if (&faults{vms: newMemVMs()}).toConnect(err, "").Message() == "" {
				t.Error("a fault without words")
			}
			return
		}
		spec := specFromProto(req.GetConfig())
		caps.Refusals("fake", spec)
		again := specFromProto(specToProto(spec))
		if len(again.Disks) != len(spec.Disks) || again.Boot.KernelArgs != spec.Boot.KernelArgs {
			t.Errorf("%+v came back as %+v", spec, again)
		}
	})
}
