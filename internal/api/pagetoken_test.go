package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"pgregory.net/rapid"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Whatever is created and deleted between pages: a VM that was there all the time is listed once, nothing twice,
// and all in order of creation.
func TestPagesSurviveInsertsAndDeletes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vms := newMemVMs()
		s := &service{vms: vms}
		ctx := context.Background()
		create := func() string {
			info, err := vms.CreateOn(ctx, vm.CreateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return string(info.ID)
		}
		steady := map[string]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "at first") {
			steady[create()] = true
		}
		var seen []string
		req := &pb.ListVmsRequest{PageSize: rapid.Int32Range(1, 7).Draw(t, "page size")}
		for page := 0; ; page++ {
			resp, err := s.ListVms(ctx, connect.NewRequest(req))
			if err != nil {
				t.Fatal(err)
			}
			if got := int(resp.Msg.GetTotalCount()); got != len(vms.vms) {
				t.Errorf("total %d of %d", got, len(vms.vms))
			}
			for _, info := range resp.Msg.GetVms() {
				seen = append(seen, info.GetVmId())
			}
			if req.PageToken = resp.Msg.GetNextPageToken(); req.PageToken == "" {
				break
			}
			for range rapid.IntRange(0, 3).Draw(t, "deletes") {
				if len(vms.vms) == 0 {
					break
				}
				id := vms.vms[rapid.IntRange(0, len(vms.vms)-1).Draw(t, "victim")].ID
				if err := vms.Delete(ctx, id, true); err != nil {
					t.Fatal(err)
				}
				delete(steady, string(id))
			}
			if page < 20 { // or a list that grows faster than its pages never ends
				for range rapid.IntRange(0, 3).Draw(t, "inserts") {
					create()
				}
			}
			req.PageSize = rapid.Int32Range(1, 7).Draw(t, "next page size")
		}
		order := map[string]int{}
		for i, id := range seen {
			if _, twice := order[id]; twice {
				t.Errorf("%s is listed twice", id)
			}
			order[id] = i
		}
		for id := range steady {
			if _, listed := order[id]; !listed {
				t.Errorf("%s was there all the time and is not listed", id)
			}
		}
		bySeq := slices.IsSortedFunc(seen, func(a, b string) int { return seqOf(a) - seqOf(b) })
		if !bySeq {
			t.Errorf("not in order of creation: %v", seen)
		}
	})
}

func seqOf(id string) int {
	var n int
	fmt.Sscanf(id, "vm%d", &n)
	return n
}

func TestTheFilterSelects(t *testing.T) {
	s := serve(t, nil)
	for _, id := range []string{"a", "b", "c", "d"} {
		s.create(t, id)
	}
	s.must(t, "BootVm", `{"vm_id":"b"}`)
	s.must(t, "BootVm", `{"vm_id":"c"}`)
	s.must(t, "PauseVm", `{"vm_id":"c"}`)
	page := s.must(t, "ListVms", `{"state_filter":["VM_STATE_PAUSED","VM_STATE_CREATED"],"page_size":2}`)
	if got := idsOf(page); got != "a c " || page["totalCount"] != float64(3) {
		t.Errorf("%s %v", got, page)
	}
	token, _ := page["nextPageToken"].(string)
	// The order of the states does not matter, the set does.
	page = s.must(t, "ListVms", fmt.Sprintf(`{"state_filter":["VM_STATE_CREATED","VM_STATE_PAUSED"],"page_token":%q}`, token))
	if _, more := page["nextPageToken"]; idsOf(page) != "d " || more {
		t.Errorf("%v", page)
	}
	for _, filter := range []string{`[]`, `["VM_STATE_CREATED"]`} {
		a := s.post(t, "ListVms", fmt.Sprintf(`{"state_filter":%s,"page_token":%q}`, filter, token))
		if a.Code != "invalid_argument" || a.fields() != "page_token" {
			t.Errorf("the token of another list: %d %s", a.status, a.body)
		}
	}
}

func idsOf(page map[string]any) string {
	var out string
	vms, _ := page["vms"].([]any)
	for _, v := range vms {
		info, _ := v.(map[string]any)
		out += fmt.Sprint(info["vmId"], " ")
	}
	return out
}

func TestADamagedPageTokenIsRefused(t *testing.T) {
	states := []lifecycle.State{lifecycle.Running}
	token := pageToken(1<<40+7, states)
	if after, err := parsePageToken(token, states); err != nil || after != 1<<40+7 {
		t.Fatalf("%d, %v", after, err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(raw) * 8 {
		damaged := slices.Clone(raw)
		damaged[bit/8] ^= 1 << (bit % 8)
		if _, err := parsePageToken(base64.RawURLEncoding.EncodeToString(damaged), states); types.KindOf(err) != types.KindInvalid {
			t.Errorf("with bit %d flipped: %v", bit, err)
		}
	}
}

func FuzzPageToken(f *testing.F) {
	f.Add(pageToken(1, nil))
	f.Add("")
	f.Add("AQ==")
	f.Fuzz(func(t *testing.T, token string) {
		after, err := parsePageToken(token, nil)
		if err == nil && token != "" && pageToken(after, nil) != token {
			t.Errorf("%q was taken for %d, whose token is %q", token, after, pageToken(after, nil))
		}
	})
}
