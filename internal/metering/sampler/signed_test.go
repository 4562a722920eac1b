package sampler

import (
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// A heartbeat may be answered before the first tick: the ticks that nobody took while metald was away are a gap all the
// same.
func TestASignatureBeforeTheFirstTick(t *testing.T) {
	const away = 10
	dir := t.TempDir()
	p := start(t, burner)
	m := newMachine("a", p)
	r := newRig(t, dir, nil)
	r.begin(m, noDisk)
	r.ticks(3)
	r.stop()
	before := replay(t, dir).of("a").Meter.Totals.At.Mono
	eventually(t, "metald is away for some ticks", func() bool {
		return hostClock{}.Now().Mono-before > away*int64(r.cfg.Interval)
	})
	r = prepareRig(t, dir, nil, func(s *Sampler) {
		s.Signed(record.Signature{Record: 1, PublicKey: make([]byte, 32), Signature: make([]byte, 64)})
	})
	if err := r.Adopt(m, noDisk, "tenant", usage.Running); err != nil {
		t.Fatal(err)
	}
	r.Settle(nil, "host-lost")
	r.ticks(3)
	cpu := p.end()
	r.End("a", types.Usage{CPUTime: &cpu}, types.ReasonForced)
	r.stop()
	if got := of(replay(t, dir).of("a").end.Final.Amount, usage.GapTicks); got < away-1 {
		t.Errorf("a gap of %d ticks, where at least %d did not come", got, away-1)
	}
}
