package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// TestAnyDelivery gives batches, totals, starts and ends of several VMs to the ledger in any order, twice and more, and
// loses some. Each sender goes on until everything is acknowledged, as it does. METALD_DELIVERIES sets how many.
func TestAnyDelivery(t *testing.T) {
	deliveries := 1500
	if n, err := strconv.Atoi(os.Getenv("METALD_DELIVERIES")); err == nil {
		deliveries = n
	}
	ctx := context.Background()
	s, random := open(t, t.TempDir()), rand.New(rand.NewPCG(uint64(deliveries), 5))
	const vms, batches = 5, 30
	var senders []*sender
	for i := range vms {
		senders = append(senders, newSender(t, fmt.Sprint("v", i), batches))
	}
	billed := make([]usage.Amount, vms)
	for range deliveries {
		i := random.IntN(vms)
		v := senders[i]
		b := v.batches[random.IntN(batches)]
		switch random.IntN(12) {
		case 0:
			v.begin(t, s)
		case 1:
			if err := s.Announce(ctx, map[usage.Incarnation]usage.Totals{b.Incarnation: *b.Totals}, nil); err != nil {
				t.Fatal(err)
			}
		case 2:
			if random.IntN(20) == 0 {
				if err := s.End(ctx, End{v.start.Incarnation, v.totals, v.totals.Next - 1, "end", []byte("end")}); err != nil && err != ErrUnknown {
					t.Fatal(err)
				}
			}
		default:
			if outcome, _, err := s.Apply(ctx, b); err != nil || outcome == ChainBroken || outcome == AppliedInPart {
				t.Fatalf("outcome %d, %v", outcome, err)
			}
		}
		now := used(t, s, Query{VM: v.start.Incarnation.VM})
		if now.Max(billed[i]) != now {
			t.Fatalf("a total fell from %v to %v", billed[i], now)
		}
		if billed[i] = now; v.totals.Amount.Max(now).Of != v.totals.Of {
			t.Fatalf("billed %v, and at its end it has used %v", now, v.totals.Amount)
		}
	}
	for _, v := range senders {
		v.begin(t, s)
		for next := uint64(0); next < v.totals.Next; {
			outcome, expected, err := s.Apply(ctx, v.batches[next/600])
			if err != nil || outcome > Duplicate {
				t.Fatalf("outcome %d, %v", outcome, err)
			}
			next = expected
		}
		v.end(t, s)
		vm := v.start.Incarnation.VM
		if total, hours := used(t, s, Query{VM: vm}), used(t, s, byHours(vm)); total != v.totals.Amount || hours != total {
			t.Errorf("%s: total %v, by hours %v, want %v", vm, total, hours, v.totals.Amount)
		}
	}
}
