package powerloss

import "time"

// WordEvery is how often the host speaks.
const WordEvery = 20 * time.Millisecond

// Word is what the host says of one moment. Each is a line of JSON.
type Word struct {
	// Mono and Read are when the host began to look and when it had looked, by its CLOCK_MONOTONIC.
	Mono, Read int64
	// CPU is the CPU time in ns of the VMM of each VM that has been booted in this boot, by the VMM's own clock.
	CPU map[string]int64 `json:",omitempty"`
	// Synced is how long the last fdatasync of the host took that has ended, on the disk that the log is on; Syncing is
	// how long the one that has not ended has taken.
	Synced, Syncing int64
	// Durable is the number of the last record that a log, which is all that is on the host, said to be durable.
	Durable uint64 `json:",omitempty"`
	// Failed is why the host cannot go on.
	Failed string `json:",omitempty"`
}

// Sync is how long a sync takes at this moment, as far as is known.
func (w Word) Sync() time.Duration { return time.Duration(max(w.Synced, w.Syncing)) }

// Recovery is what a host says of what an earlier boot left, before it boots a VM.
type Recovery struct {
	Boot   string // the id of this boot
	Before Log    // as the loss of power left it
	After  Log    // as metald left it, which was started and stopped
	Ready  int64  // how long metald took to answer, in ns
	VMs    []VM
	Said   []string // what `metald wal verify`, before it started, and `metald usage audit` say, if they are not content
	Failed string   `json:",omitempty"`
}

// VM is what metald says of a VM after its host has lost power.
type VM struct {
	ID, State, Reason string
	CPU               uint64 // ns in all its incarnations, as GetUsage answers
}

// Log is a log of usage, read by this package and not by metald.
type Log struct {
	Records, Last uint64
	Bad           []string // what should not be: damage, records that contradict each other, broken chains
	Lives         []Life   // in order of epoch
}

// Life is an incarnation as the log has it: what its ticks sum up to, and its end.
type Life struct {
	VM, Boot   string
	Epoch      uint64
	Start      int64  // CLOCK_MONOTONIC of its baseline
	At         int64  // of its last tick; of the baseline where there was none
	Ticks      uint64 // the number that the next one gets
	CPU        uint64 // ns up to the last tick
	Ended      bool
	Reason     string
	FinalAt    int64  // of what the end says
	FinalTicks uint64 // as Ticks
	FinalCPU   uint64
}
