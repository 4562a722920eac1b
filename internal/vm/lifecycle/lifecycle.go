// Package lifecycle is the state machine of a VM: which event is legal in which state, and where it leads.
// It is pure: no clock, no I/O, standard library only.
//
//	          boot                 pause
//	CREATED ────────▶ RUNNING ◀──────────▶ PAUSED
//	                  │  ▲  ▲    resume      │
//	             exit │  │  │                │ exit
//	                  ▼  │  └─ reboot        ▼
//	               SHUTDOWN ◀────────────────┘
//	                     boot leads back to RUNNING
//
// delete leads from CREATED and SHUTDOWN to GONE, and with force from every state. An exit of the VMM is an
// observation and so is legal in every state that has a VMM.
package lifecycle

import (
	"fmt"
	"slices"
)

// State is where a VM is. The zero value is Absent: nothing is known under that id.
type State uint8

// The states. Created, Running, Paused and Shutdown are those of the wire contract; Absent and Gone are the
// ends of a life and are never reported.
const (
	Absent State = iota
	Created
	Running
	Paused
	Shutdown
	Gone
)

var stateNames = [...]string{"ABSENT", "CREATED", "RUNNING", "PAUSED", "SHUTDOWN", "GONE"}

// String returns the state's name as errors and logs write it.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Event is what happens to a VM: a verb that a caller asks for, or an exit that was observed.
type Event uint8

// The events. Those with Force skip the guest's consent.
const (
	Create Event = iota
	Boot
	Pause
	Resume
	AskShutdown   // ask the guest to power off; the state changes only when the exit is observed
	ForceShutdown // end the VMM
	AskReboot     // ask the guest to power off, then boot a new incarnation
	ForceReboot
	Delete
	ForceDelete
	Exit // the VMM ended, whoever ended it
)

var eventNames = [...]string{
	"create", "boot", "pause", "resume", "shut down", "shut down by force", "reboot", "reboot by force",
	"delete", "delete by force", "exit",
}

// String returns the event as a verb.
func (e Event) String() string {
	if int(e) < len(eventNames) {
		return eventNames[e]
	}
	return fmt.Sprintf("Event(%d)", uint8(e))
}

// transitions is the whole table: an event that is not listed for a state is refused.
var transitions = map[State]map[Event]State{
	Absent: {Create: Created},
	Created: {
		Boot: Running, Delete: Gone, ForceDelete: Gone, Exit: Shutdown,
	},
	Running: {
		Pause: Paused, AskShutdown: Running, ForceShutdown: Shutdown, AskReboot: Running, ForceReboot: Running,
		ForceDelete: Gone, Exit: Shutdown,
	},
	Paused: {
		Resume: Running, ForceShutdown: Shutdown, ForceDelete: Gone, Exit: Shutdown,
	},
	Shutdown: {
		Boot: Running, AskShutdown: Shutdown, ForceShutdown: Shutdown, Delete: Gone, ForceDelete: Gone,
	},
	Gone: {},
}

// RefusedError says that an event is not legal in a state.
type RefusedError struct {
	State State
	Event Event
}

// Error names the state, the event, and the states in which the event would be legal.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("cannot %s a VM that is %s; it must be %s", e.Event, e.State, Allowed(e.Event))
}

// Next returns the state that event leads to from state, or a *RefusedError and the unchanged state.
func Next(state State, event Event) (State, error) {
	next, ok := transitions[state][event]
	if !ok {
		return state, &RefusedError{State: state, Event: event}
	}
	return next, nil
}

// Allowed names the states in which event is legal, in their order of declaration.
func Allowed(event Event) string {
	var names []string
	for state := Absent; state <= Gone; state++ {
		if _, ok := transitions[state][event]; ok {
			names = append(names, state.String())
		}
	}
	switch len(names) {
	case 0:
		return "in no state"
	case 1:
		return names[0]
	}
	return joinOr(names)
}

func joinOr(names []string) string {
	out := names[0]
	for _, n := range names[1 : len(names)-1] {
		out += ", " + n
	}
	return out + " or " + names[len(names)-1]
}

// Edges returns the table as sorted rows (state, event, next) for docs and tests.
func Edges() [][3]string {
	var rows [][3]string
	for state, events := range transitions {
		for event, next := range events {
			rows = append(rows, [3]string{state.String(), event.String(), next.String()})
		}
	}
	slices.SortFunc(rows, func(a, b [3]string) int { return slices.Compare(a[:], b[:]) })
	return rows
}
