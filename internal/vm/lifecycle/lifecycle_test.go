package lifecycle_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	. "github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// no says that the contract refuses an event in a state.
const no = State(255)

// contract is the wire contract's table of transitions, written out: a row per event, a column per state. What a
// graceful shutdown or reboot leads to at once is that the guest runs on; the exit is an event of its own. A VM
// that was created has a VMM, so its VMM can end; one that is shut down has none.
var contract = []struct {
	event                                            Event
	absent, created, running, paused, shutdown, gone State
	allowed                                          string
}{
	{Create, Created, no, no, no, no, no, "ABSENT"},
	{Boot, no, Running, no, no, Running, no, "CREATED or SHUTDOWN"},
	{Pause, no, no, Paused, no, no, no, "RUNNING"},
	{Resume, no, no, no, Running, no, no, "PAUSED"},
	{AskShutdown, no, no, Running, no, Shutdown, no, "RUNNING or SHUTDOWN"},
	{ForceShutdown, no, no, Shutdown, Shutdown, Shutdown, no, "RUNNING, PAUSED or SHUTDOWN"},
	{AskReboot, no, no, Running, no, no, no, "RUNNING"},
	{ForceReboot, no, no, Running, no, no, no, "RUNNING"},
	{Delete, no, Gone, no, no, Gone, no, "CREATED or SHUTDOWN"},
	{ForceDelete, no, Gone, Gone, Gone, Gone, no, "CREATED, RUNNING, PAUSED or SHUTDOWN"},
	{Exit, no, Shutdown, Shutdown, Shutdown, no, no, "CREATED, RUNNING or PAUSED"},
}

func TestNext(t *testing.T) {
	for i, row := range contract {
		if int(row.event) != i {
			t.Fatalf("row %d is of %s: an event has no row", i, row.event)
		}
		want := []State{Absent: row.absent, Created: row.created, Running: row.running, Paused: row.paused, Shutdown: row.shutdown, Gone: row.gone}
		for state := Absent; state <= Gone; state++ {
			next, err := Next(state, row.event)
			switch {
			case want[state] != no:
				if err != nil || next != want[state] {
					t.Errorf("%s of %s leads to %s, %v; the contract says %s", row.event, state, next, err, want[state])
				}
			case err == nil:
				t.Errorf("%s of %s leads to %s; the contract refuses it", row.event, state, next)
			default:
				wantRefusal(t, err, next, state, row.event, row.allowed)
			}
		}
		if got := Allowed(row.event); got != row.allowed {
			t.Errorf("%s is allowed in %q, want %q", row.event, got, row.allowed)
		}
	}
	if next := Event(len(contract)); !strings.HasPrefix(next.String(), "Event(") {
		t.Errorf("the event %q has no row", next)
	}
}

func wantRefusal(t *testing.T, err error, next, state State, event Event, allowed string) {
	t.Helper()
	if next != state {
		t.Errorf("a %s that was refused led from %s to %s", event, state, next)
	}
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.State != state || refused.Event != event {
		t.Errorf("%s of %s: %#v, want a RefusedError that says so", event, state, err)
	}
	want := "cannot " + event.String() + " a VM that is " + state.String() + "; it must be " + allowed
	if err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestNextOutsideOfTheTable(t *testing.T) {
	for _, tc := range []struct {
		state State
		event Event
	}{{State(99), Boot}, {Running, Event(99)}, {State(99), Event(99)}} {
		if next, err := Next(tc.state, tc.event); err == nil || next != tc.state {
			t.Errorf("%s of %s leads to %s, %v", tc.event, tc.state, next, err)
		}
	}
}

func TestNames(t *testing.T) {
	// Wire names are these with VM_STATE_ before them.
	for state, want := range map[State]string{
		Absent: "ABSENT", Created: "CREATED", Running: "RUNNING", Paused: "PAUSED", Shutdown: "SHUTDOWN", Gone: "GONE", 77: "State(77)",
	} {
		if got := state.String(); got != want {
			t.Errorf("state %d is called %q, want %q", state, got, want)
		}
	}
	for event, want := range map[Event]string{
		Create: "create", Boot: "boot", Pause: "pause", Resume: "resume", AskShutdown: "shut down", ForceShutdown: "shut down by force",
		AskReboot: "reboot", ForceReboot: "reboot by force", Delete: "delete", ForceDelete: "delete by force", Exit: "exit", 77: "Event(77)",
	} {
		if got := event.String(); got != want {
			t.Errorf("event %d is called %q, want %q", event, got, want)
		}
	}
}

// Records hold states as numbers: a number must mean the same to every metald. They are also the wire's.
func TestStatesHaveTheirNumbers(t *testing.T) {
	for want, state := range []State{Absent, Created, Running, Paused, Shutdown, Gone} {
		if int(state) != want {
			t.Errorf("%s is %d, want %d", state, state, want)
		}
	}
}

// Edges is Next, row by row.
func TestEdges(t *testing.T) {
	rows := Edges()
	n := 0
	for state := Absent; state <= Gone; state++ {
		for _, row := range contract {
			next, err := Next(state, row.event)
			if err != nil {
				continue
			}
			n++
			if !slices.Contains(rows, [3]string{state.String(), row.event.String(), next.String()}) {
				t.Errorf("%s of %s is missing", row.event, state)
			}
		}
	}
	if len(rows) != n {
		t.Errorf("%d rows, want %d", len(rows), n)
	}
	if !slices.IsSortedFunc(rows, func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }) {
		t.Errorf("not sorted: %v", rows)
	}
}
