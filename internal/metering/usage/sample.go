package usage

import "fmt"

// State is what a VM did from one moment to the next.
type State uint8

// States. Unobserved is for time in which nobody looked and what was before differs from what is now.
const (
	Unobserved State = iota
	Created
	Booting
	Running
	Paused
	Snapshotted
	Stopping
	Stopped

	States = int(Stopped) + 1 // how many there are
)

var stateNames = [States]string{"unobserved", "created", "booting", "running", "paused", "snapshotted", "stopping", "stopped"}

// String is the state's name, as it stands in exports.
func (s State) String() string {
	if int(s) >= States {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return stateNames[s]
}

// HoldsMemory says whether memory is set aside for a VM in s: allocated memory counts in such states alone.
func (s State) HoldsMemory() bool { return s == Running || s == Paused }

// Time is one moment by the clocks of a host.
type Time struct {
	Mono int64 // ns of CLOCK_MONOTONIC: durations are differences of it
	Wall int64 // ns since 1970 of CLOCK_REALTIME: places a moment on the calendar, and nothing else
}

// Sample is one tick of one incarnation.
type Sample struct {
	Seq     uint64 // 0 for the first tick of the incarnation, one more for each that follows, read or not
	At      Time
	State   State // from At on
	Reading Reading
}

// Incarnation names one life of a VM's counters. Whatever makes them begin anew begins another.
type Incarnation struct {
	Host       string // the host's id
	VM         string
	Epoch      uint64 // counted by the host's log; never used twice
	Boot       string // the kernel's boot id
	StartTicks uint64 // of the VMM's process: field 22 of /proc/<pid>/stat
}
