package gauges

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

func TestTextHasTheTable(t *testing.T) {
	now := time.Unix(1000, 0)
	state := State{Now: now, Log: wal.Status{Durable: 7}, Ledger: ledger.Status{Position: 5}, Shipper: &shipper.Status{DownSince: now.Add(-time.Minute)}}
	var text strings.Builder
	if err := Write(&text, state); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^(metald_[a-z_]+) (\S+)$`)
	values := map[string]string{}
	for _, m := range line.FindAllStringSubmatch(text.String(), -1) {
		values[m[1]] = m[2]
	}
	for _, g := range All() {
		if _, ok := values[g.Name]; !ok {
			t.Errorf("%s is not in the text", g.Name)
		}
		if !strings.Contains(text.String(), "# TYPE "+g.Name+" "+g.Type+"\n") || !strings.Contains(Table(), "`"+g.Name+"`") {
			t.Errorf("%s has no type, or is not in the table", g.Name)
		}
		if (g.Type == "counter") != strings.HasSuffix(g.Name, "_total") {
			t.Errorf("%s is a %s", g.Name, g.Type)
		}
	}
	if len(values) != len(All()) {
		t.Errorf("%d lines of %d gauges", len(values), len(All()))
	}
	if values["metald_usage_ledger_behind_records"] != "2" || values["metald_usage_receiver_down_seconds"] != "60" {
		t.Errorf("values %v", values)
	}
	state.Shipper = nil
	text.Reset()
	if err := Write(&text, state); err != nil || strings.Contains(text.String(), "unacked") {
		t.Errorf("what is sent nowhere has a gauge: %v", err)
	}
}

func TestTroubleIsTold(t *testing.T) {
	if note, err := Trouble(State{}); err != nil || note != "" {
		t.Errorf("%v, %q", err, note)
	}
	bad := errors.New("input/output error")
	for _, tt := range []struct {
		state   State
		failing bool
		says    string
	}{
		{State{Log: wal.Status{Full: true}}, true, "no room"},
		{State{Log: wal.Status{Err: bad}}, true, "input/output error"},
		{State{Log: wal.Status{ReserveErr: bad, OverQuota: true}}, false, "quota"},
		{State{Audit: Audited{Different: 3}}, false, "3 differences"},
		{State{Shipper: &shipper.Status{DownSince: time.Unix(0, 0)}, Now: time.Unix(90, 0)}, false, "90 s"},
	} {
		note, err := Trouble(tt.state)
		if (err != nil) != tt.failing || !strings.Contains(note+errText(err), tt.says) {
			t.Errorf("%v, %q; want %q", err, note, tt.says)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
