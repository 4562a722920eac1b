package wal

import "fmt"

// Loss is records that can't be read any more.
type Loss struct {
	First, Last uint64
	// Segment is where they should have been, or the next one.
	Segment uint64
	// Never says that the log was closed without them: they were being written when their host or process ended, and
	// nobody was told that they were durable.
	Never bool
}

func (l Loss) String() string {
	why := "damaged or removed"
	if l.Never {
		why = "never durable"
	}
	return fmt.Sprintf("records %d to %d, segment %d: %s", l.First, l.Last, l.Segment, why)
}

// Entry is what a Reader finds: a record, or that records are lost.
type Entry struct {
	Record
	// Known says that the record is below where the reader was asked to begin. It comes for those that are coded
	// against it.
	Known bool
	// Repaired says that the record was damaged and was made again from parity.
	Repaired bool
	Lost     *Loss
	Hash     Hash // of the record
	Prev     Hash // of the one before
	// Follows says that the record before, in the chain, is the one that was read before.
	Follows bool
}
