package vm

import (
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// TestClassify is the whole table: per finding, what becomes of a live record by its state.
func TestClassify(t *testing.T) {
	const (
		keep  = actKeep
		adopt = actAdopt
		exit  = actExit
		reap  = actReap
		retry = actRetry
	)
	states := [...]lifecycle.State{lifecycle.Created, lifecycle.Running, lifecycle.Paused, lifecycle.Shutdown}
	table := [...]struct {
		found found
		what  string
		want  [len(states)]action
	}{
		{foundNone, "no handle", [...]action{exit, exit, exit, keep}},
		{foundGone, "a process that is no more", [...]action{exit, exit, exit, exit}},
		{foundMute, "a VMM that does not answer", [...]action{retry, retry, retry, retry}},
		{foundCreated, "a VMM that was not booted", [...]action{adopt, reap, reap, reap}},
		{foundRunning, "a VMM that runs", [...]action{adopt, adopt, adopt, adopt}},
		{foundPaused, "a VMM that is paused", [...]action{adopt, adopt, adopt, adopt}},
		{foundEnded, "a VMM whose guest has ended", [...]action{reap, reap, reap, reap}},
	}
	for i, row := range table {
		if int(row.found) != i {
			t.Fatalf("row %d is of %q: a finding has no row", i, row.what)
		}
		for j, state := range states {
			if got := classify(store.Record{Phase: store.Live, State: state}, row.found); got != row.want[j] {
				t.Errorf("%s under a record that is %s: action %d, want %d", row.what, state, got, row.want[j])
			}
			for _, phase := range []store.Phase{store.Creating, store.Deleting} {
				if got := classify(store.Record{Phase: phase, State: state}, row.found); got != actForget {
					t.Errorf("%s under a record that is %q: action %d, want that it is forgotten", row.what, phase, got)
				}
			}
		}
	}
	if int(foundEnded)+1 != len(table) {
		t.Errorf("%d findings, %d rows", foundEnded+1, len(table))
	}
}
