// Package bench measures metald against floors: what the same work costs without metald, run beside it in the
// same process and turn by turn, so that a noisy machine disturbs both alike. Every result is a ratio.
package bench

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

// measure is one turn of one side: it returns how long the part took that counts.
type measure func() time.Duration

// pairs runs subject and floor turn by turn, b.N times and at least least times, and reports the median of each
// and their ratio.
func pairs(b *testing.B, least int, subject, floor measure) {
	b.Helper()
	took := pairsOf(b, least, subject, floor)
	report(b, median(took.subject), median(took.floor))
}

// sides are how long the turns of each side took.
type sides struct{ subject, floor []time.Duration }

// pairsOf runs the turns of pairs. The first tenth is not counted.
func pairsOf(b *testing.B, least int, subject, floor measure) (took sides) {
	b.Helper()
	n := max(b.N, least)
	warm := n / 10
	for i := range n + warm {
		var ds, df time.Duration
		if i%2 == 0 {
			ds, df = subject(), floor()
		} else {
			df, ds = floor(), subject()
		}
		if i >= warm {
			took.subject, took.floor = append(took.subject, ds), append(took.floor, df)
		}
	}
	return took
}

// report prints a subject, its floor and the ratio; the command that reads the output knows the gates by name.
func report(b *testing.B, subject, floor time.Duration) {
	b.ReportMetric(0, "ns/op") // the wall time of a pair says nothing
	b.ReportMetric(float64(subject)/float64(time.Microsecond), "subject-us")
	b.ReportMetric(float64(floor)/float64(time.Microsecond), "floor-us")
	b.ReportMetric(float64(subject)/float64(floor), "ratio")
}

func median(d []time.Duration) time.Duration { return percentile(d, 0.5) }

func percentile(d []time.Duration, p float64) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[int(p*float64(len(d)-1))]
}
