package shipper

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// kind is what a step tells the receiver.
type kind uint8

const (
	toStart kind = iota
	toSend
	toMiss
	toStop
)

var kindNames = [...]string{"NotifyVmStarted", "SendMetricsBatch", "NotifyPossibleGap", "NotifyVmStopped"}

func (k kind) String() string { return kindNames[k] }

// step is one request of a life. Those of a life are sent one after the other.
type step struct {
	kind        kind
	first, last uint64 // of a batch or a gap
	payload     []byte
	totals      *usage.Totals // up to last; nil where the meter cannot say
	gap         [2]int64      // ns since 1970: before and after it
	end         *usage.End
	then        mark // where the life is once it is acknowledged; its chain is found then
}

// mark is where a life is: what the receiver has of it, and up to which record of the log that is.
type mark struct {
	Opened  bool
	Next    uint64     // the tick that the receiver expects
	Chain   batch.Hash // up to it
	Meter   usage.Meter
	Metered uint64 // the last record that is in Meter
	Seen    uint64 // the last record that is at the receiver
	// Blind: the receiver has ticks that Meter has not, so no totals are sent with batches.
	Blind bool
}
