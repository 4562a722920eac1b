package fifo

import "testing"

func TestDriveBytesAreTheSumOfTotals(t *testing.T) {
	b := newBench(t, twoAndTwo)
	if _, _, drives := b.c.DriveBytes(); drives != 0 {
		t.Errorf("%d drives are known before the first line", drives)
	}
	b.put(t, oneLine(t))
	must(t, b.c.Collect())
	var wantRead, wantWritten uint64
	totals := b.c.Totals()
	for _, d := range totals.Drives {
		wantRead, wantWritten = wantRead+d.ReadBytes, wantWritten+d.WriteBytes
	}
	read, written, drives := b.c.DriveBytes()
	if read != wantRead || written != wantWritten || drives != len(totals.Drives) || read == 0 && written == 0 {
		t.Errorf("%d and %d of %d drives, want %d and %d of %d", read, written, drives, wantRead, wantWritten, len(totals.Drives))
	}
	if n := testing.AllocsPerRun(10, func() { b.c.DriveBytes() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
