package record

import (
	"errors"
	"strings"
	"testing"
)

func TestPrinter(t *testing.T) {
	d, _, _ := prefix(t)
	var out strings.Builder
	p := &Printer{Out: &out}
	for _, b := range seeds(t) {
		if b.typ == TypeThin { // after ticks it needs a keyframe, and is of incarnation 2, which has ended
			d, _, _ = prefix(t)
		}
		if err := d.Decode(b.typ, b.bytes, p); err != nil {
			t.Fatalf("type %d: %v", b.typ, err)
		}
	}
	for _, want := range []string{
		"keyframe at 2027-01-15T08:00:00.000000000Z (mono 1000000000000), 3 incarnations live\n",
		`  lives: epoch 1, VM "vm-01jd3v7q2m8k4x9z0c5b6n7a8s" of "org_2fV9kqLwX" on host`,
		"    next tick 1, running, last read {cpu=1099511627776 resident=268435456} at",
		"epoch 2 tick 3 at 2027-01-15T08:00:00.100000000Z (mono 1000100000000): running {resident=4097}\n",
		"epoch 3 tick 3 at", "running {}\n",
		"begins: epoch 9,", "epoch 2 enters paused at", "ended: epoch 2,", `  because of "guest-shutdown", last tick 1 at`,
		"disk_read_bytes=UNKNOWN", "incomplete=cpu,", "epoch 2 ticks 1 to 9 as one, from", "record 7 signed at", "5 records were lost here",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	full := &Printer{Out: broken{}}
	full.Lost(1)
	full.Lost(2)
	if full.Err == nil || full.Err.Error() != "no room" {
		t.Error(full.Err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no room") }
