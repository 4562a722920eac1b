package metrics

import (
	_ "embed" // a stream of the real thing
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// realStream is the whole stream of one Firecracker 1.16.1. Its guest (cmd/guest-init) wrote 4 MiB to the drive "data"
// and was ended by ctrl-alt-del. In the middle, with 16 KiB of room and no reader, four flushes in a row were refused:
// one left a torn line, and what it had begun stood before the next whole one.
//
//go:embed testdata/v1.16.1.stream
var realStream []byte

// The guest wrote 4194304 bytes in pages of 4096 while every line was read, and nothing while lines were lost, so the
// totals are the truth.
func TestARealStream(t *testing.T) {
	d := decoder(t, Devices{Drives: []string{"rootfs", "data"}})
	d.Feed(realStream)
	d.End()
	got := d.Totals()
	want := map[string]Drive{
		"data":   {ReadBytes: 4096, ReadCount: 1, WriteBytes: 4 << 20, WriteCount: 1024},
		"rootfs": {ReadBytes: 2103296, ReadCount: 327, WriteBytes: 45056, WriteCount: 11},
	}
	if diff := cmp.Diff(want, got.Drives); diff != "" {
		t.Error(diff)
	}
	if got.Lines != 7 || got.Unknown != 0 || !got.At.Equal(time.UnixMilli(1795533122510)) {
		t.Errorf("%d lines, %d unknown devices, the last at %d", got.Lines, got.Unknown, got.At.UnixMilli())
	}
	gap := Gap{After: time.UnixMilli(1795533121435), Before: time.UnixMilli(1795533121758), Unread: 1}
	if diff := cmp.Diff([]Gap{gap}, d.AppendGaps(nil)); diff != "" {
		t.Error(diff)
	}
	if got.Unread.Pieces != 1 || got.Unread.Bytes != 5111 {
		t.Errorf("unread: %+v", got.Unread)
	}
}
