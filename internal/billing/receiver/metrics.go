package receiver

import (
	"fmt"
	"net/http"
	"sync/atomic"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

// counts are what became of batches since billaged started, by status.
type counts [pb.BatchStatus_BATCH_STATUS_CHAIN_BROKEN + 1]atomic.Uint64

func (c *counts) add(status pb.BatchStatus) { c[status].Add(1) }

// metrics serves what whoever runs billaged watches, in Prometheus' text format.
func metrics(c *counts, ledger *store.Store) http.HandlerFunc {
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
	}
}
