package batch

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Hash is a link of a chain. The one before the first is zero.
type Hash [sha256.Size]byte

// Chain is the hash of a batch of ticks [first, last] after a chain that came to prev. It covers, in this order: prev;
// host, VM, epoch, boot id and start ticks of the incarnation; first and last; the payload; the totals: next tick,
// monotonic and wall clock, the sets of measured and of incomplete fields, and every quantity (high, low). Numbers are
// 8 bytes, big endian; texts and the payload follow their length.
func Chain(prev Hash, inc usage.Incarnation, first, last uint64, payload []byte, totals usage.Totals) Hash {
	h := sha256.New()
	h.Write(prev[:])
	texts(h, inc.Host, inc.VM)
	numbers(h, inc.Epoch)
	texts(h, inc.Boot)
	numbers(h, inc.StartTicks, first, last, uint64(len(payload)))
	h.Write(payload)
	numbers(h, totals.Next, uint64(totals.At.Mono), uint64(totals.At.Wall), uint64(totals.Measured), uint64(totals.Incomplete))
	for _, of := range totals.Of {
		numbers(h, of.Hi, of.Lo)
	}
	return Hash(h.Sum(nil))
}

func numbers(h hash.Hash, list ...uint64) {
	for _, n := range list {
		h.Write(binary.BigEndian.AppendUint64(nil, n))
	}
}

func texts(h hash.Hash, list ...string) {
	for _, s := range list {
		numbers(h, uint64(len(s)))
		h.Write([]byte(s))
	}
}
