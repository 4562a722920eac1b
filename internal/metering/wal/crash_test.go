package wal

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// soak says that tests are to be run in full.
func soak() bool { return os.Getenv("METALD_TEST_SOAK") != "" }

// TestCrashAtEveryOperation ends the host or the process at each operation of a small life, before or after the
// operation had its effect, with what was not synced kept, dropped or torn.
func TestCrashAtEveryOperation(t *testing.T) {
	tears := 1
	if soak() {
		tears = 40
	}
	variants := []string{"process", "dropped", "kept", "torn"}
	whole := newRig(t, tiny)
	whole.work()
	whole.verify()
	total, runs := whole.disk.ops, 0
	for at := range total {
		for _, effect := range []bool{false, true} {
			for tear := range tears + 3 {
				if !soak() && (at+tear)%4 != 0 && variants[min(tear, 3)] != "torn" {
					continue // the others another time
				}
				r := newRig(t, tiny)
				r.disk.crashAt, r.disk.effect = at, effect
				r.work()
				r.disk.crashAt = -1
				random := rand.New(rand.NewPCG(uint64(at), uint64(tear)))
				variant := variants[min(tear, 3)]
				r.desc = fmt.Sprintf("operation %d, effect %t, %s %d", at, effect, variant, tear)
				if variant == "process" {
					r.disk.restart()
				} else {
					r.disk.reboot(keeper(variant, random))
				}
				r.recovers()
				runs++
			}
		}
	}
	t.Logf("%d operations, %d crashes", total, runs)
}
