package firecracker

import "testing"

func TestDiskTotalsAreThoseOfUsage(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.create("totals", r.spec("metald.write=4096"))
		if sum, ok := v.DiskTotals(); ok {
			t.Errorf("before the first line of the metrics: %+v", sum)
		}
		must(t, v.Boot(t.Context()))
		v.wantWritten(4096)
		u, err := v.Usage(t.Context())
		must(t, err)
		if sum, ok := v.DiskTotals(); !ok || sum.WriteBytes != u.Disks["root"].WriteBytes || sum.ReadBytes != u.Disks["root"].ReadBytes {
			t.Errorf("%+v %t, and Usage says %+v", sum, ok, u.Disks)
		}
		if n := testing.AllocsPerRun(10, func() { v.DiskTotals() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		must(t, v.Destroy(t.Context()))
		if sum, ok := v.DiskTotals(); ok {
			t.Errorf("after its end: %+v", sum)
		}
	})
}
