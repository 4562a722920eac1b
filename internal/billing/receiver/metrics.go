package receiver

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

// counts are what became of batches since billaged started, by status.
type counts [pb.BatchStatus_BATCH_STATUS_CHAIN_BROKEN + 1]atomic.Uint64

func (c *counts) add(status pb.BatchStatus) { c[status].Add(1) }

// metrics serves what whoever runs billaged watches, in Prometheus' text format.
func metrics(c *counts, ledger *store.Store, now func() time.Time, audited func() Audited) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		gauges, err := ledger.Gauges(r.Context())
		if err != nil {
			http.Error(w, "the ledger cannot be read", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, "# HELP billaged_batches_total Batches since the start, by what became of them.\n# TYPE billaged_batches_total counter")
		for status := 1; status < len(c); status++ {
			fmt.Fprintf(w, "billaged_batches_total{status=%q} %d\n", pb.BatchStatus(status).String(), c[status].Load())
		}
		fmt.Fprintln(w, "# HELP billaged_incarnations Incarnations in the ledger, by where they are.\n# TYPE billaged_incarnations gauge")
		for phase, name := range [...]string{store.PhaseOpen: "open", store.PhaseClosing: "closing", store.PhaseClosed: "closed"} {
			fmt.Fprintf(w, "billaged_incarnations{phase=%q} %d\n", name, gauges.Incarnations[phase])
		}
		fmt.Fprintf(w, "# HELP billaged_quarantined Values that were set aside.\n# TYPE billaged_quarantined gauge\nbillaged_quarantined %d\n", gauges.Quarantined)
		fmt.Fprintf(w, "# HELP billaged_gap_ticks Ticks that were not read.\n# TYPE billaged_gap_ticks gauge\nbillaged_gap_ticks %d\n", gauges.GapTicks)
		fmt.Fprintf(w, "# HELP billaged_unplaced_cpu_ns CPU time that is announced, and whose ticks have not come.\n# TYPE billaged_unplaced_cpu_ns gauge\nbillaged_unplaced_cpu_ns %d\n", gauges.UnplacedCPUNs)
		gauge(w, "billaged_unbilled_ns", "Time for which totals are announced, and whose ticks have not come, summed over incarnations.", gauges.UnbilledNs)
		oldest := int64(0)
		if gauges.OldestWall > 0 {
			oldest = max(now().UnixNano()-gauges.OldestWall, 0) / int64(time.Second)
		}
		gauge(w, "billaged_oldest_unacked_seconds", "Age of the last tick of the open incarnation that is furthest behind.", oldest)
		writeAudited(w, audited())
	}
}

func gauge(w io.Writer, name, help string, value int64) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", name, help, name, name, value)
}

// Audited is what audits of the ledger came to since billaged started.
type Audited struct {
	Passed, Differed, Failed int64
	At                       time.Time // of the last one's end; zero before the first
	OK                       bool      // the last one passed
	Records                  int64     // that the last one read
}

func writeAudited(w io.Writer, a Audited) {
	fmt.Fprintln(w, "# HELP billaged_audits_total Audits since the start, by what they came to.\n# TYPE billaged_audits_total counter")
	fmt.Fprintf(w, "billaged_audits_total{result=\"passed\"} %d\nbillaged_audits_total{result=\"differed\"} %d\nbillaged_audits_total{result=\"failed\"} %d\n", a.Passed, a.Differed, a.Failed)
	if a.At.IsZero() {
		return
	}
	ok := int64(0)
	if a.OK {
		ok = 1
	}
	gauge(w, "billaged_audit_ok", "Whether the ledger was what its raw records come to, at the last audit.", ok)
	gauge(w, "billaged_audit_time_seconds", "When the last audit ended, in seconds since 1970.", a.At.Unix())
	gauge(w, "billaged_audit_records", "Raw records that the last audit read.", a.Records)
}
