package metrics

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// writer is how Firecracker writes a line: in pieces of up to 1024 bytes into a pipe that may be full. A piece that
// did not fit stays in its buffer, in front of the next line.
type writer struct {
	pipe   bytes.Buffer
	room   int
	buffer []byte
}

// write takes one key or number of a line. It is false if it could not be handed over.
func (w *writer) write(text string) bool {
	if len(w.buffer)+len(text) > 1024 && !w.flush() {
		return false
	}
	w.buffer = append(w.buffer, text...)
	return true
}

func (w *writer) flush() bool {
	if w.pipe.Len()+len(w.buffer) > w.room {
		return false
	}
	w.pipe.Write(w.buffer)
	w.buffer = w.buffer[:0]
	return true
}

// vmm is a Firecracker with one drive, "a". A delta counts as said when its number was handed to the writer, although
// the line may never become whole.
type vmm struct {
	writer
	clock  int64
	missed uint64
	truth  map[string]uint64
	said   map[string]uint64
}

func (v *vmm) metrics() bool {
	v.clock += 100
	if !v.write(fmt.Sprintf(`{"utc_timestamp_ms":%d,"logger":{"missed_metrics_count":`, v.clock)) {
		return false
	}
	if !v.write(fmt.Sprint(v.missed)) {
		return false
	}
	v.missed = 0
	between := `},"block_a":{"`
	for _, f := range driveFields() {
		if !v.write(between+f.name+`":`) || !v.write(fmt.Sprint(v.truth[f.name]-v.said[f.name])) {
			return false
		}
		v.said[f.name] = v.truth[f.name]
		if !v.write(`,"queue_` + f.name + `":` + strings.Repeat("1", 300)) {
			return false
		}
		between = `,"`
	}
	return v.write("}}") && v.write("\n") && v.flush()
}

// TestTotalsAreTheTruthOrAGapSaysSo plays a Firecracker whose pipe is full now and then and a metald that restarts and
// crashes. A total never is above the truth, and below it only where a gap is marked.
func TestTotalsAreTheTruthOrAGapSaysSo(t *testing.T) {
	exact, gaps := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		v := &vmm{writer: writer{room: rapid.SampledFrom([]int{5000, 9000, 65536}).Draw(rt, "pipe")}, truth: map[string]uint64{}, said: map[string]uint64{}}
		d := decoder(rt, onlyA())
		gapped := false
		read := func(n int) { d.Feed(v.pipe.Next(n)) }
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			for _, f := range driveFields() {
				v.truth[f.name] += rapid.Uint64Range(0, 1<<30).Draw(rt, f.name)
			}
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				d = restart(rt, d, true)
			case 1:
				s := d.State()
				read(rapid.IntRange(0, 4096).Draw(rt, "lost")) // and crashes before it kept a state of that
				restored, err := Restore(onlyA(), s, false)
				if err != nil {
					rt.Fatal(err)
				}
				d = restored
			case 2, 3, 4:
				read(rapid.IntRange(1, 9000).Draw(rt, "read"))
			default:
				if !v.metrics() && rapid.Bool().Draw(rt, "periodic") {
					v.missed++ // FlushMetrics says so by its answer instead
				}
			}
			gapped = len(d.AppendGaps(nil)) > 0 || gapped
			compare(rt, d, v.truth, math.MaxUint64)
		}
		for i := 0; i < 2; { // two whole flushes clear what is in the buffer
			v.room = math.MaxInt
			if v.metrics() {
				i++
			}
			read(math.MaxInt)
		}
		d.End()
		gapped = len(d.AppendGaps(nil)) > 0 || gapped
		if gapped {
			gaps++
			compare(rt, d, v.truth, math.MaxUint64)
			return
		}
		exact++
		compare(rt, d, v.truth, 0)
	})
	if exact == 0 || gaps == 0 {
		t.Errorf("%d streams without a gap, %d with one: the test shows nothing", exact, gaps)
	}
}

// compare says where a total is above the truth, or more than by short below it.
func compare(t rapid.TB, d *Decoder, truth map[string]uint64, short uint64) {
	t.Helper()
	for name, got := range d.State().Counters["block_a"] {
		if got > truth[name] || truth[name]-got > short {
			t.Fatalf("%s is %d, the truth %d", name, got, truth[name])
		}
	}
}
