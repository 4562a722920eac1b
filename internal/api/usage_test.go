package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// oneLedger answers every query with what it has.
type oneLedger struct {
	asked  ledger.Query
	answer ledger.Answer
	now    ledger.Now
	rows   string
	fail   error
}

func (l *oneLedger) Usage(_ context.Context, q ledger.Query) (ledger.Answer, error) {
	l.asked = q
	return l.answer, l.fail
}

func (l *oneLedger) Latest(vm string) (ledger.Now, bool) {
	return l.now, l.now.Incarnation.VM == vm
}

func (l *oneLedger) Export(_ context.Context, w io.Writer, _ string, _, _ time.Time) (string, error) {
	if _, err := io.WriteString(w, l.rows); err != nil {
		return "", err
	}
	return "sum", l.fail
}

func (l *oneLedger) Audit(context.Context) (ledger.Audit, error) {
	return ledger.Audit{First: 1, Last: 2}, l.fail
}

func used() usage.Amount {
	var a usage.Amount
	a.Of[usage.CPU] = usage.Of64(5e9)
	a.Of[usage.Resident] = usage.Mul(1<<40, 1<<40)
	a.Of[usage.RunningNs] = usage.Of64(6e9)
	a.Of[usage.GapTicks] = usage.Of64(3)
	a.Measured = usage.SetOf(usage.CPU, usage.Resident, usage.DiskRead)
	a.Incomplete = usage.SetOf(usage.Resident)
	return a
}

func TestGetUsage(t *testing.T) {
	l := &oneLedger{}
	s := serve(t, func(c *Config) { c.Ledger = l })
	at := time.Date(2026, 11, 24, 12, 0, 5, 0, time.UTC)
	l.answer = ledger.Answer{Known: true, Quarantined: 2, Windows: []ledger.Window{{From: at, To: at.Add(time.Second), Amount: used()}}}
	got := s.must(t, "GetUsage", `{"vm_id":"gone","tenant_id":"acme","from":"2026-11-24T12:00:00Z","to":"2026-11-24T12:00:10Z","step_seconds":1}`)
	if want := (ledger.Query{VM: "gone", Tenant: "acme", From: at.Add(-5 * time.Second), To: at.Add(5 * time.Second), Step: time.Second}); l.asked != want {
		t.Errorf("the ledger was asked %+v", l.asked)
	}
	want := map[string]any{"quarantined": "2", "windows": []any{map[string]any{
		"from": "2026-11-24T12:00:05Z", "to": "2026-11-24T12:00:06Z",
		"usage": map[string]any{
			"cpuNs": map[string]any{"lo": "5000000000"}, "memoryResidentByteNs": map[string]any{"hi": "65536"}, "diskReadBytes": map[string]any{},
			"runningNs": map[string]any{"lo": "6000000000"}, "pausedNs": map[string]any{}, "otherNs": map[string]any{}, "unobservedNs": map[string]any{},
			"gapTicks": "3", "incomplete": []any{"MEASURE_MEMORY_RESIDENT"},
		},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	l.answer.Windows[0].From, l.answer.Windows[0].To = time.Time{}, time.Time{}
	got = s.must(t, "GetUsage", `{"vm_id":"gone"}`)
	if window := got["windows"].([]any)[0].(map[string]any); window["from"] != nil || window["to"] != nil || !l.asked.From.IsZero() {
		t.Errorf("everything so far has a range: %v, %+v", got, l.asked)
	}
}

func TestGetUsageRefuses(t *testing.T) {
	l := &oneLedger{}
	s := serve(t, func(c *Config) { c.Ledger = l })
	s.must(t, "CreateVm", strings.Replace(quickStart, "{", `{"vm_id":"fresh",`, 1))
	if got := s.must(t, "GetUsage", `{"vm_id":"fresh"}`); len(got) != 0 {
		t.Errorf("a VM that used nothing yet: %v", got)
	}
	if got := s.must(t, "GetUsage", `{"tenant_id":"nobody"}`); len(got) != 0 {
		t.Errorf("a tenant without VMs: %v", got)
	}
	for body, field := range map[string]string{
		`{}`: "vm_id", `{"vm_id":"a","from":"2026-11-24T12:00:00Z"}`: "to", `{"vm_id":"a","step_seconds":5}`: "step_seconds",
		`{"vm_id":"a","from":"2026-11-24T12:00:00Z","to":"2026-11-24T12:00:00Z"}`: "to",
	} {
		if a := s.post(t, "GetUsage", body); a.Code != "invalid_argument" || a.fields() != field {
			t.Errorf("%s: %s, field %q: %s", body, a.Code, a.fields(), a.Message)
		}
	}
	if a := s.post(t, "GetUsage", `{"vm_id":"never-was"}`); a.Code != "not_found" {
		t.Errorf("a VM that never was: %+v", a)
	}
	l.fail = types.Errorf(types.KindPrecondition, "windows that begin or end within an hour are available from noon on")
	if a := s.post(t, "GetUsage", `{"vm_id":"fresh"}`); a.Code != "failed_precondition" || !strings.Contains(a.Message, "available from noon on") {
		t.Errorf("a range that the log has no more: %+v", a)
	}
	if a := serve(t, nil).post(t, "GetUsage", `{"vm_id":"a"}`); a.Code != "unavailable" {
		t.Errorf("where nothing is metered: %+v", a)
	}
}

func TestMetricsAreThoseOfTheLedger(t *testing.T) {
	l := &oneLedger{}
	s := serve(t, func(c *Config) { c.Ledger = l })
	s.must(t, "CreateVm", strings.Replace(quickStart, "{", `{"vm_id":"web","tenant_id":"acme",`, 1))
	s.must(t, "BootVm", `{"vm_id":"web"}`)
	l.now = ledger.Now{Incarnation: usage.Incarnation{VM: "web"}, Last: usage.Reading{}.With(usage.Resident, 12345), Used: used(), CPUNs: 5e8, OverNs: 1e9}
	info := s.must(t, "GetVmInfo", `{"vm_id":"web"}`)
	metrics := info["metrics"].(map[string]any)
	if metrics["cpuUsagePercent"] != 50.0 || metrics["memoryUsageBytes"] != "12345" || info["tenantId"] != "acme" {
		t.Errorf("%v", info)
	}
	if vms := s.must(t, "ListVms", `{}`)["vms"].([]any); vms[0].(map[string]any)["tenantId"] != "acme" {
		t.Errorf("%v", vms)
	}
}

func TestTenantIDs(t *testing.T) {
	s := serve(t, nil)
	create := func(id, tenant string) answer {
		text, _ := json.Marshal(tenant)
		return s.post(t, "CreateVm", strings.Replace(quickStart, "{", `{"vm_id":"`+id+`","tenant_id":`+string(text)+`,`, 1))
	}
	for i, tenant := range []string{"", "acme", "ws_4:eu/x@y.example", strings.Repeat("t", 256)} {
		if a := create("vm"+string(rune('a'+i)), tenant); a.Code != "" {
			t.Errorf("%q: %s", tenant, a.Message)
		}
	}
	for _, tenant := range []string{"two words", "tab\t", "zero\x00", "ünï", strings.Repeat("t", 257)} {
		if a := create("bad", tenant); a.Code != "invalid_argument" || a.fields() != "tenant_id" {
			t.Errorf("%q: %s, field %q", tenant, a.Code, a.fields())
		}
	}
	if a := create("vmb", "umbrella"); a.Code != "already_exists" {
		t.Errorf("for another tenant: %+v", a)
	}
	if info := s.must(t, "GetVmInfo", `{"vm_id":"vma"}`); info["tenantId"] != "unattributed" {
		t.Errorf("%v", info)
	}
}

// Who reads an export knows whether it is whole: by its trailer, and by the connection's end.
func TestExportOverHTTP(t *testing.T) {
	l := &oneLedger{rows: strings.Repeat("hour,tenant\n", 20_000)}
	s := serve(t, func(c *Config) { c.Ledger = l })
	get := func(path string) (*http.Response, string, error) {
		resp, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}
	resp, body, err := get("/usage/export?format=csv&to=2026-11-24T12:00:00Z")
	if err != nil || body != l.rows || resp.Trailer.Get(sumTrailer) != "sum" {
		t.Errorf("%d bytes, trailer %v, %v", len(body), resp.Trailer, err)
	}
	if resp, body, _ := get("/usage/export?format=csv&from=noon"); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "noon") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	l.fail = types.Errorf(types.KindPrecondition, "hours are complete up to noon")
	if resp, _, err := get("/usage/export?format=csv"); err == nil || resp.Trailer.Get(sumTrailer) != "" {
		t.Errorf("an export that failed half-way looks whole: %v", resp.Trailer)
	}
	l.rows = ""
	if resp, body, _ := get("/usage/export?format=csv"); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "complete up to noon") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	l.fail = nil
	if resp, body, _ := get("/usage/audit"); resp.StatusCode != http.StatusOK || !strings.Contains(body, `"Last":2`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
