// Package gauges is what whoever runs metald watches of metering: one table, from which GET /metrics is written, in
// Prometheus' text format, and the documentation.
package gauges

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/sampler"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// State is how metering is at one moment.
type State struct {
	Sampler sampler.Status
	Log     wal.Status
	Ledger  ledger.Status
	Shipper *shipper.Status // nil where usage is sent nowhere
	Audit   Audited
	Now     time.Time
}

// Audited is what audits of the ledger came to since metald started.
type Audited struct {
	Passed, Differed, Failed int
	At                       time.Time // of the last one's end; zero before the first
	Different                int       // what the last one found
	Err                      error     // why the last one failed
}

// Gauge is one line of the table.
type Gauge struct {
	Name string
	Type string // counter or gauge
	Help string

	read  func(State) float64
	ships bool // there only where usage is sent somewhere
}

// All is the table.
func All() []Gauge { return all }

var all = []Gauge{
	{"metald_metering_lives", "gauge", "VMMs that are metered.", func(s State) float64 { return float64(s.Sampler.Lives) }, false},
	{"metald_metering_ticks_total", "counter", "Ticks that were taken.", func(s State) float64 { return float64(s.Sampler.Ticks) }, false},
	{"metald_metering_late_ticks_total", "counter", "Of them, those that came later than a fifth of the interval.", func(s State) float64 { return float64(s.Sampler.Late) }, false},
	{"metald_metering_gap_ticks", "gauge", "Ticks since the start that did not come: nobody looked.", func(s State) float64 { return float64(s.Sampler.Missed) }, false},
	{"metald_metering_tick_lateness_seconds", "gauge", "How late the latest one in a hundred of the last ticks was.", func(s State) float64 { return s.Sampler.P99Lateness.Seconds() }, false},
	{"metald_metering_quarantined", "gauge", "Values since the start that could not be true, and are billed to nobody.", func(s State) float64 { return float64(s.Sampler.Quarantined) }, false},
	{"metald_metering_pending_ends", "gauge", "VMMs that ended, and the log has not taken it yet.", func(s State) float64 { return float64(s.Sampler.PendingEnds) }, false},
	{"metald_metering_questions_failed_total", "counter", "Questions for what only a VMM knows that it did not answer.", func(s State) float64 { return float64(s.Sampler.AskFailures) }, false},
	{"metald_usage_log_bytes", "gauge", "Size of the log of usage.", func(s State) float64 { return float64(s.Log.Bytes) }, false},
	{"metald_usage_log_segments", "gauge", "Its segments.", func(s State) float64 { return float64(s.Log.Segments) }, false},
	{"metald_usage_log_pending_bytes", "gauge", "Bytes of it that are not durable yet.", func(s State) float64 { return float64(s.Log.Pending) }, false},
	{"metald_usage_log_sync_seconds", "gauge", "How long the last write and sync took.", func(s State) float64 { return s.Log.Commits.Last.Seconds() }, false},
	{"metald_usage_log_failing", "gauge", "1: the disk takes nothing, or has no room, or none for the ends of VMMs.", func(s State) float64 {
		return truth(s.Log.Err != nil || s.Log.Full || s.Log.ReserveErr != nil || s.Log.RecoveryErr != nil)
	}, false},
	{"metald_usage_log_over_quota", "gauge", "1: it is larger than its quota.", func(s State) float64 { return truth(s.Log.OverQuota) }, false},
	{"metald_usage_ledger_behind_records", "gauge", "Records of the log that the ledger has not.", func(s State) float64 { return float64(s.Log.Durable - min(s.Ledger.Position, s.Log.Durable)) }, false},
	{"metald_usage_audits_total", "counter", "Audits of the ledger since the start that passed.", func(s State) float64 { return float64(s.Audit.Passed) }, false},
	{"metald_usage_audits_differed_total", "counter", "Audits that found the ledger to be another than its log.", func(s State) float64 { return float64(s.Audit.Differed) }, false},
	{"metald_usage_audits_failed_total", "counter", "Audits that could not be made.", func(s State) float64 { return float64(s.Audit.Failed) }, false},
	{"metald_usage_unbilled_ns", "gauge", "Time since the last tick that the receiver acknowledged, summed over VMMs.", func(s State) float64 { return float64(s.Shipper.UnbilledNs) }, true},
	{"metald_usage_oldest_unacked_seconds", "gauge", "Age of the oldest tick that the receiver has not acknowledged.", func(s State) float64 { return s.Shipper.OldestUnacked.Seconds() }, true},
	{"metald_usage_receiver_down_seconds", "gauge", "How long the receiver does not answer; 0 while it does.", down, true},
	{"metald_billing_batches_sent_total", "counter", "Batches that were acknowledged.", func(s State) float64 { return float64(s.Shipper.Batches) }, true},
	{"metald_heartbeat_sent_total", "counter", "Heartbeats that were answered.", func(s State) float64 { return float64(s.Shipper.Heartbeats) }, true},
	{"metald_usage_retries_total", "counter", "Requests that got no answer.", func(s State) float64 { return float64(s.Shipper.Retries) }, true},
	{"metald_usage_refused_batches_total", "counter", "Batches that the receiver refuses for good. They are kept, and told as gaps.", func(s State) float64 { return float64(s.Shipper.Quarantined) }, true},
	{"metald_usage_parked_lives", "gauge", "VMMs of which the receiver takes nothing. They are tried again.", func(s State) float64 { return float64(s.Shipper.Parked) }, true},
	{"metald_usage_chain_breaks_total", "counter", "Times that the receiver had another hash chain than metald.", func(s State) float64 { return float64(s.Shipper.ChainBreaks) }, true},
	{"metald_usage_signature_faults_total", "counter", "Signatures of the receiver that were wrong, or withheld.", func(s State) float64 { return float64(s.Shipper.SignatureFaults) }, true},
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func down(s State) float64 {
	if s.Shipper.DownSince.IsZero() {
		return 0
	}
	return max(s.Now.Sub(s.Shipper.DownSince).Seconds(), 0)
}

// Write writes all gauges that there are.
func Write(w io.Writer, s State) error {
	for _, g := range all {
		if g.ships && s.Shipper == nil {
			continue
		}
		value := strconv.FormatFloat(g.read(s), 'g', -1, 64)
		if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", g.Name, g.Help, g.Name, g.Type, g.Name, value); err != nil {
			return err
		}
	}
	return nil
}

// Table is the table as Markdown.
func Table() string {
	text := "| name | type | what |\n| --- | --- | --- |\n"
	for _, g := range all {
		text += fmt.Sprintf("| `%s` | %s | %s |\n", g.Name, g.Type, g.Help)
	}
	return text
}

// Trouble says in words what of metering needs somebody. failing is what keeps VMs from being booted, note all else.
func Trouble(s State) (note string, failing error) {
	switch {
	case s.Log.Full:
		failing = fmt.Errorf("the disk has no room for the log of usage; no VM can be booted before it has")
	case s.Log.Err != nil:
		failing = fmt.Errorf("the log of usage cannot be written, and no VM booted: %w", s.Log.Err)
	}
	say := func(is bool, format string, args ...any) {
		if is {
			if note != "" {
				note += "; "
			}
			note += fmt.Sprintf(format, args...)
		}
	}
	say(s.Log.ReserveErr != nil, "a full disk would have no room for the ends of VMMs: %v", s.Log.ReserveErr)
	say(s.Log.RecoveryErr != nil, "what the log of usage had at the start could not be made durable: %v", s.Log.RecoveryErr)
	say(s.Log.OverQuota, "the log of usage is above its quota")
	say(s.Ledger.Err != nil, "the ledger of usage cannot be saved: %v", s.Ledger.Err)
	say(s.Audit.Different > 0, "the audit of %s found %d differences between the ledger and its log; metald usage audit lists them", s.Audit.At.UTC().Format(time.RFC3339), s.Audit.Different)
	say(s.Audit.Err != nil, "the last audit of the ledger failed: %v", s.Audit.Err)
	if s.Shipper != nil {
		say(!s.Shipper.DownSince.IsZero(), "the billing service does not answer for %.0f s; what is used stays in the log", down(s))
		say(s.Shipper.Parked > 0, "the billing service takes nothing of %d VMMs", s.Shipper.Parked)
	}
	return note, failing
}
