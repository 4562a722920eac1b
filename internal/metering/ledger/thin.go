package ledger

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// Thin adds many ticks that the log has as one.
func (b *book) Thin(epoch uint64, l usage.Leap) {
	b.work++
	b.now(l.Last.At)
	if a := b.accounts[epoch]; a != nil {
		b.add(a, l.Last)
	}
}
