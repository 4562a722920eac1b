package shipper

import (
	"time"
)

// Status is how a shipper does, for gauges. Ages count to the moment at which Status is called.
type Status struct {
	Lives int
	// UnbilledNs is how long ago, in ns, the last acknowledged tick was: summed over the lives that there are, and of
	// the one that is furthest behind.
	UnbilledNs, UnbilledMostNs int64
	// OldestUnacked is the age of the oldest tick that the receiver has not acknowledged.
	OldestUnacked time.Duration
	// DownSince is since when the receiver does not answer; zero while it does.
	DownSince time.Time
	// Position is the record up to which the log was read, and Acked the one up to which it was told to forget.
	Position, Acked uint64

	Batches    uint64 // acknowledged since the start
	Heartbeats uint64 // answered since the start
	Retries    uint64 // requests that got no answer
	GapTicks   uint64 // ticks that were told as lost since the start
	// Quarantined is batches that the receiver refuses for good. They are kept in the shipper's file, and told as gaps.
	Quarantined uint64
	SetAside    uint64 // batches of which the receiver set values aside
	Parked      int    // lives of which the receiver takes nothing. They are tried again.
	ChainBreaks uint64 // times that the receiver had another chain
	// SignatureFaults is countersignatures that were wrong, or were withheld because the receiver saw another log.
	SignatureFaults uint64

	InFlight, Waiting int // steps under way, and behind them
}

// Status returns how the shipper does.
func (s *Shipper) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	if status.Lives > 0 {
		age := int64(time.Since(s.seenAt))
		status.UnbilledNs += int64(status.Lives) * age
		status.UnbilledMostNs += age
		status.OldestUnacked += time.Duration(age)
	}
	return status
}

// publish makes what Status returns.
func (e *engine) publish() {
	now := time.Now()
	status := e.counts
	status.SignatureFaults = e.signer.faults.Load()
	status.Lives, status.Parked, status.InFlight, status.Waiting = len(e.lives), 0, e.flying, 0
	status.Position, status.Acked = e.pos, e.told
	for _, l := range e.lives {
		age := max(now.UnixNano()-l.acked.Meter.Totals.At.Wall, 0)
		status.UnbilledNs += age
		status.UnbilledMostNs = max(status.UnbilledMostNs, age)
		if l.parked != 0 {
			status.Parked++
		}
		status.Waiting += len(l.outbox)
	}
	status.OldestUnacked = time.Duration(status.UnbilledMostNs)
	e.mu.Lock()
	e.status, e.seenAt = status, now
	e.mu.Unlock()
}
