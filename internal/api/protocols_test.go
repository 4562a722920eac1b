package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// h2cClient speaks HTTP/2 without TLS and without asking first.
func h2cClient(t testing.TB) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func quickStartRequest(t testing.TB) *pb.CreateVmRequest {
	t.Helper()
	req := &pb.CreateVmRequest{}
	if err := (jsonCodec{}).Unmarshal([]byte(quickStart), req); err != nil || undecodable(req) != nil {
		t.Fatal(err, undecodable(req))
	}
	return req
}

func TestEveryProtocolOnOnePort(t *testing.T) {
	s := serve(t, nil)
	h2c := h2cClient(t)
	for _, tc := range []struct {
		name    string
		client  *http.Client
		options []connect.ClientOption
	}{
		{"Connect proto", http.DefaultClient, nil},
		{"Connect JSON", http.DefaultClient, []connect.ClientOption{connect.WithProtoJSON()}},
		{"Connect proto h2c", h2c, nil},
		{"Connect JSON gzip h2c", h2c, []connect.ClientOption{connect.WithProtoJSON(), connect.WithSendGzip()}},
		{"gRPC", h2c, []connect.ClientOption{connect.WithGRPC()}},
		{"gRPC JSON", h2c, []connect.ClientOption{connect.WithGRPC(), connect.WithProtoJSON()}},
		{"gRPC-Web", http.DefaultClient, []connect.ClientOption{connect.WithGRPCWeb()}},
		{"gRPC-Web JSON h2c", h2c, []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := vmprovisionerv1connect.NewVmServiceClient(tc.client, s.url, tc.options...)
			created, err := client.CreateVm(t.Context(), connect.NewRequest(quickStartRequest(t)))
			if err != nil {
				t.Fatal(err)
			}
			id := created.Msg.GetVmId()
			if created.Msg.GetState() != pb.VmState_VM_STATE_CREATED || id == "" {
				t.Errorf("created %v", created.Msg)
			}
			if _, err := client.PauseVm(t.Context(), connect.NewRequest(&pb.PauseVmRequest{VmId: id})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
				t.Errorf("pause: %v", err)
			}
			_, err = client.BootVm(t.Context(), connect.NewRequest(&pb.BootVmRequest{}))
			if connect.CodeOf(err) != connect.CodeInvalidArgument || violated(t, err) != "vm_id" {
				t.Errorf("boot without an id: %v", err)
			}
			large := &pb.BootVmRequest{VmId: strings.Repeat("a", 300<<10)}
			if _, err = client.BootVm(t.Context(), connect.NewRequest(large)); connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("a request of 300 KiB: %v", err)
			}
		})
	}
}

// violated is the first field in the BadRequest of an error.
func violated(t *testing.T, err error) string {
	t.Helper()
	var failed *connect.Error
	if !errors.As(err, &failed) {
		t.Fatalf("%v is no Connect error", err)
	}
	for _, d := range failed.Details() {
		if value, err := d.Value(); err == nil {
			if bad, ok := value.(*errdetails.BadRequest); ok {
				return bad.GetFieldViolations()[0].GetField()
			}
		}
	}
	return ""
}

func TestGRPCGo(t *testing.T) {
	s := serve(t, nil)
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := func(rpc string, req, resp proto.Message) *status.Status {
		return status.Convert(conn.Invoke(t.Context(), servicePrefix+rpc, req, resp))
	}
	var created pb.CreateVmResponse
	if st := call("CreateVm", quickStartRequest(t), &created); st.Code() != codes.OK {
		t.Fatal(st)
	}
	var info pb.GetVmInfoResponse
	if st := call("GetVmInfo", &pb.GetVmInfoRequest{VmId: created.GetVmId()}, &info); st.Code() != codes.OK || info.GetVmId() != created.GetVmId() {
		t.Errorf("%v %v", st, &info)
	}
	st := call("PauseVm", &pb.PauseVmRequest{VmId: created.GetVmId()}, &pb.PauseVmResponse{})
	if st.Code() != codes.FailedPrecondition || !strings.Contains(st.Message(), "CREATED") {
		t.Errorf("pause: %v", st)
	}
	if len(st.Details()) != 1 {
		t.Fatalf("details %v", st.Details())
	}
	detail, ok := st.Details()[0].(*errdetails.ErrorInfo)
	if !ok || detail.GetReason() != "FAILED_PRECONDITION" || detail.GetDomain() != "metald" ||
		detail.GetMetadata()["vm_id"] != created.GetVmId() || detail.GetMetadata()["state"] != "VM_STATE_CREATED" {
		t.Errorf("detail %v", st.Details()[0])
	}
	if st := call("GetVmInfo", &pb.GetVmInfoRequest{VmId: "none"}, &info); st.Code() != codes.NotFound {
		t.Errorf("no such VM: %v", st)
	}
}

func TestJSONAnswersAreAsTheContractSays(t *testing.T) {
	s := serve(t, nil)
	created := s.must(t, "CreateVm", strings.Replace(quickStart, "{", `{"vm_id":"a",`, 1))
	if created["vmId"] != "a" || created["state"] != "VM_STATE_CREATED" {
		t.Errorf("%v", created)
	}
	info := s.must(t, "GetVmInfo", `{"vmId":"a"}`)
	config, _ := info["config"].(map[string]any)
	memory, _ := config["memory"].(map[string]any)
	if memory["sizeBytes"] != "134217728" {
		t.Errorf("memory %v", memory)
	}
	storage, _ := config["storage"].([]any)
	disk, _ := storage[0].(map[string]any)
	if disk["id"] != "disk0" || disk["isRootDevice"] != true {
		t.Errorf("disk %v", disk)
	}
	if info["createdTimestamp"] != "1700000001" {
		t.Errorf("created %v", info["createdTimestamp"])
	}
	if _, has := info["metrics"]; has {
		t.Errorf("a VM that never ran has metrics: %v", info["metrics"])
	}
}

func TestBothSpellingsOfReadonlyAreRead(t *testing.T) {
	s := serve(t, nil)
	for id, member := range map[string]string{"one": `"readonly":true`, "two": `"read_only":true`} {
		s.must(t, "CreateVm", strings.Replace(edit(`"readonly":false`, member), "{", `{"vm_id":"`+id+`",`, 1))
		info, err := s.vms.Get(types.VMID(id))
		if err != nil || !info.Spec.Disks[0].ReadOnly {
			t.Errorf("%s: %v, %v", member, info.Spec.Disks, err)
		}
		if a := s.post(t, "GetVmInfo", `{"vm_id":"`+id+`"}`); !strings.Contains(strings.ReplaceAll(a.body, " ", ""), `"readonly":true`) {
			t.Errorf("%s: %s", member, a.body)
		}
	}
}

func TestForceAndTimeoutReachTheManager(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "a")
	for _, tc := range []struct{ rpc, body, want string }{
		{"BootVm", `{"vm_id":"a"}`, "boot"},
		{"RebootVm", `{"vm_id":"a"}`, "reboot30s"},
		{"RebootVm", `{"vm_id":"a","force":true}`, "reboot by force30s"},
		{"ShutdownVm", `{"vm_id":"a","timeout_seconds":7}`, "shut down7s"},
		{"ShutdownVm", `{"vm_id":"a"}`, "shut down30s"},
		{"ShutdownVm", `{"vm_id":"a","force":true}`, "shut down by force30s"},
		{"BootVm", `{"vm_id":"a"}`, "boot"},
		{"DeleteVm", `{"vm_id":"a","force":true}`, "delete by force"},
	} {
		if out := s.must(t, tc.rpc, tc.body); out["success"] != true {
			t.Errorf("%s %s: %v", tc.rpc, tc.body, out)
		}
		if got := s.vms.lastAsked(); got != tc.want {
			t.Errorf("%s %s: the manager was asked to %q, want %q", tc.rpc, tc.body, got, tc.want)
		}
	}
}

func TestTheClientsDeadlineReachesTheManager(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "a")
	s.vms.before = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	req := s.request(t, "BootVm", "application/json", strings.NewReader(`{"vm_id":"a"}`))
	req.Header.Set("Connect-Timeout-Ms", "50")
	if a := s.do(t, req); a.Code != "deadline_exceeded" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestHTTP2IsServedWithoutTLS(t *testing.T) {
	s := serve(t, nil)
	resp, err := h2cClient(t).Get(s.url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.ProtoMajor != 2 || string(body) != "ok\n" {
		t.Errorf("%s %q %v", resp.Proto, body, err)
	}
}

func TestRunReportsAListenerThatFails(t *testing.T) {
	s := serve(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.Run(t.Context(), ln); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("Run on a closed listener: %v", err)
	}
}
