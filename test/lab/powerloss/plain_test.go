package powerloss

import (
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab"
)

// TestLogSurvivesPowerLoss takes the power of a host that does nothing but write a log: what Log.Wait said is durable
// is there after each loss, and whole.
func TestLogSurvivesPowerLoss(t *testing.T) {
	h := newHost(t, 5, lab.Payload{Commands: map[string]string{"host": "./test/lab/powerloss/host"}})
	h.boot()
	for range h.cycles {
		l := h.loseWithin(2*time.Second, "append", func(w Word) bool { return w.Durable > 0 })
		h.boot()
		var log Log
		h.ask("read", &log)
		said := l.last().Durable
		sync, late := l.Slow()
		t.Logf("%d records were said to be durable, %d are there; the last sync took %s, the host was up to %s late", said, log.Last, sync, late)
		for _, bad := range log.Bad {
			t.Error(bad)
		}
		if log.Last < said {
			t.Errorf("the log ends with record %d, and %d was said to be durable", log.Last, said)
		}
	}
}
