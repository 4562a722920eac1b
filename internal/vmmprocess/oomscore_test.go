package vmmprocess

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// TestVMMGoesBeforeMetald looks at what the kernel would go by when memory runs out.
func TestVMMGoesBeforeMetald(t *testing.T) {
	s, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	commit := func(types.ProcessIdentity) error { return nil }
	p, err := s.Start(t.Context(), Command{Path: "/bin/sleep", Args: []string{"60"}}, commit)
	if err != nil {
		t.Fatal(err)
	}
	pid := p.Identity().PID
	defer killChild(pid)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	late := time.After(10 * time.Second)
	for {
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Fatal(err)
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(name)) == "sleep" {
			if got := strings.TrimSpace(string(score)); got != "500" {
				t.Errorf("the VMM's oom_score_adj is %s", got)
			}
			return
		}
		select {
		case <-look.C:
		case <-late:
			t.Fatalf("the gate has not become the VMM: %s", name)
		}
	}
}
