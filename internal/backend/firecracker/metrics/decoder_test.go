package metrics

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDeltasAddUpPerDevice(t *testing.T) {
	d := decoder(t, Devices{Drives: []string{"rootfs", "data_1"}, Networks: []string{"eth0"}})
	line := flush{
		stamp: 1000,
		drives: map[string]Drive{
			"rootfs": {ReadBytes: 4096, WriteBytes: 512, ReadCount: 2, WriteCount: 1, FlushCount: 3, RateLimited: 4, EngineThrottled: 5},
			"data_1": {WriteBytes: 1 << 40, WriteCount: 9},
		},
		nets: map[string]Network{"eth0": {RxBytes: 1500, TxBytes: 60, RxPackets: 1, TxPackets: 2, RxFails: 3, TxFails: 4, RxRateLimited: 5, TxRateLimited: 6}},
	}
	d.Feed([]byte(line.text()))
	line.stamp = 1100
	d.Feed([]byte(line.text())) // the same again is as much again
	want := Totals{
		At: time.UnixMilli(1100), Lines: 2,
		Drives: map[string]Drive{
			"rootfs": {ReadBytes: 8192, WriteBytes: 1024, ReadCount: 4, WriteCount: 2, FlushCount: 6, RateLimited: 8, EngineThrottled: 10},
			"data_1": {WriteBytes: 2 << 40, WriteCount: 18},
		},
		Networks: map[string]Network{"eth0": {RxBytes: 3000, TxBytes: 120, RxPackets: 2, TxPackets: 4, RxFails: 6, TxFails: 8, RxRateLimited: 10, TxRateLimited: 12}},
	}
	got := d.Totals()
	got.VMM = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if gaps := d.AppendGaps(nil); gaps != nil || d.InGap() {
		t.Errorf("gaps %v in a whole stream", gaps)
	}
}

func TestGaugesAreNotAddedUp(t *testing.T) {
	d := decoder(t, onlyA())
	for range 3 {
		f := drive(1, Drive{})
		f.faults, f.pipes = 7, 2
		d.Feed([]byte(f.text()))
	}
	vmm := d.Totals().VMM
	for name, want := range map[string]uint64{
		"seccomp.num_faults": 7, "signals.sigpipe": 6, "latencies_us.pause_vm": 17, "api_server.process_startup_time_us": 8011,
	} {
		if vmm[name] != want {
			t.Errorf("%s is %d after three lines, want %d", name, vmm[name], want)
		}
	}
	if _, ok := vmm["vmm.panic_count"]; ok {
		t.Error("a number that no line has is reported")
	}
}

func TestADriveNoLineSpokeOfIsUnknown(t *testing.T) {
	d := decoder(t, Devices{Drives: []string{"a", "vhost"}})
	f := drive(1, Drive{ReadBytes: 1})
	f.nets = map[string]Network{"stranger": {RxBytes: 5}}
	d.Feed([]byte(f.text()))
	got := d.Totals()
	if _, ok := got.Drives["vhost"]; ok || len(got.Drives) != 1 || len(got.Networks) != 0 || got.Unknown != 1 {
		t.Errorf("drives %v, networks %v, %d unknown", got.Drives, got.Networks, got.Unknown)
	}
}

func TestALineCountsAsAWholeOrNotAtAll(t *testing.T) {
	good := drive(5, Drive{ReadBytes: 64, WriteBytes: 32}).text()
	swap := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("the line has no %s", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	const number = `"write_bytes":32`
	for name, line := range map[string]string{
		"negative":            swap(number, `"write_bytes":-32`),
		"fraction":            swap(number, `"write_bytes":32.0`),
		"exponent":            swap(number, `"write_bytes":3e1`),
		"leading zero":        swap(number, `"write_bytes":032`),
		"beyond 64 bits":      swap(number, `"write_bytes":18446744073709551616`),
		"string":              swap(number, `"write_bytes":"32"`),
		"null":                swap(number, `"write_bytes":null`),
		"counter twice":       swap(number, `"write_bytes":32,"write_bytes":32`),
		"counter missing":     swap(number, `"written_bytes":32`),
		"escaped counter":     swap(number, `"write\u005fbytes":32`),
		"drive twice":         swap(`,"block":`, `,"block_a":`+driveText(Drive{})+`,"block":`),
		"drive no object":     swap(`,"block":`, `,"block_a":7,"block":`),
		"escaped drive":       swap(`"block_a"`, `"block\u005fa"`),
		"stamp twice":         swap(`,"block":`, `,"utc_timestamp_ms":5,"block":`),
		"stamp negative":      swap(`_ms":5`, `_ms":-5`),
		"stamp beyond":        swap(`_ms":5`, `_ms":9223372036854775808`),
		"no stamp":            swap(`"utc_timestamp_ms"`, `"time"`),
		"torn":                good[:len(good)/2] + "\n",
		"tail of a line":      good[len(good)/2:],
		"something behind":    strings.TrimSuffix(good, "\n") + "}\n",
		"nested bomb":         swap(`"filler_0":{`, `"filler_0":`+nested("[", "]", 5000)+`,"filler_00":{`),
		"nested object bomb":  swap(`"filler_0":{`, `"filler_0":`+nested(`{"a":`, "}", maxDepth)+`,"filler_00":{`),
		"control byte":        swap(`"filler_0"`, "\"filler\x01\""),
		"bad escape":          swap(`"filler_1":{`, `"filler_1":{"x":"\q",`),
		"bad literal":         swap(`"filler_1":{`, `"filler_1":{"x":nul,`),
		"too long for a line": strings.Repeat("x", maxLine) + good,
	} {
		d := decoder(t, onlyA())
		d.Feed([]byte(drive(1, Drive{ReadBytes: 1}).text() + line + drive(9, Drive{ReadBytes: 2}).text()))
		got := d.Totals()
		if want := (Drive{ReadBytes: 3}); got.Drives["a"] != want || got.Lines != 2 {
			t.Errorf("%s: counted %+v of %d lines", name, got.Drives["a"], got.Lines)
		}
		if got.Unread.Pieces == 0 || got.Unread.Last == "" {
			t.Errorf("%s: unread %+v", name, got.Unread)
		}
		want := []Gap{{After: time.UnixMilli(1), Before: time.UnixMilli(9), Unread: got.Unread.Pieces}}
		if diff := cmp.Diff(want, d.AppendGaps(nil)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// nested is a whole value with depth containers in it.
func nested(begin, end string, depth int) string {
	return strings.Repeat(begin, depth) + "1" + strings.Repeat(end, depth)
}

func TestWhatIsOddAndWholeCounts(t *testing.T) {
	for name, swap := range map[string][2]string{
		"white space":      {`,"block":`, " ,\t\"block\" : "},
		"other values":     {`"filler_0":{`, `"filler_0":{"x":[1,-2.5e+3,true,false,null,"\u00e9\"\\"],`},
		"largest counter":  {`"read_bytes":1,`, `"read_bytes":18446744073709551615,`},
		"deep":             {`"filler_0":{`, `"filler_0":` + nested("[", "]", maxDepth-1) + `,"filler_00":{`},
		"empty containers": {`"filler_0":{`, `"filler_0":{"x":[],"y":{},`},
	} {
		line := strings.Replace(drive(1, Drive{ReadBytes: 1}).text(), swap[0], swap[1], 1)
		d := decoder(t, onlyA())
		d.Feed([]byte("\n \r\n" + line))
		if got := d.Totals(); got.Lines != 1 || got.Unread.Pieces != 0 || got.Drives["a"].ReadBytes == 0 {
			t.Errorf("%s: %d lines, unread %+v", name, got.Lines, got.Unread)
		}
	}
}

func TestATotalNeverWrapsAround(t *testing.T) {
	d := decoder(t, onlyA())
	d.Feed([]byte(drive(1, Drive{ReadBytes: math.MaxUint64 - 1}).text()))
	d.Feed([]byte(drive(2, Drive{ReadBytes: 2, WriteBytes: 1}).text()))
	if got, want := d.Totals().Drives["a"], (Drive{ReadBytes: math.MaxUint64 - 1}); got != want || !d.InGap() {
		t.Errorf("%+v, in a gap: %t", got, d.InGap())
	}
}

func TestAGluedLineIsSplitWhereTheNextOneBegins(t *testing.T) {
	one, two := drive(1, Drive{ReadBytes: 1}).text(), drive(2, Drive{ReadBytes: 10}).text()
	d := decoder(t, onlyA())
	d.Feed([]byte(one + one[:1024] + one[:2048] + two))
	if got := d.Totals(); got.Drives["a"].ReadBytes != 11 || got.Unread.Pieces != 2 || got.Unread.Bytes != 3072 {
		t.Errorf("torn twice: %+v, unread %+v", got.Drives["a"], got.Unread)
	}
	d = decoder(t, onlyA())
	d.Feed([]byte(strings.TrimSuffix(one, "\n") + two)) // only the end of the line was lost
	if got := d.Totals(); got.Drives["a"].ReadBytes != 11 || got.Unread.Pieces != 0 || d.AppendGaps(nil) != nil {
		t.Errorf("two whole ones: %+v, unread %+v", got.Drives["a"], got.Unread)
	}
}

func TestFlushesThatFirecrackerMissedAreAGap(t *testing.T) {
	d := decoder(t, onlyA())
	d.Feed([]byte(drive(1, Drive{}).text()))
	f := drive(4, Drive{})
	f.missed = 3
	d.Feed([]byte(f.text()))
	want := []Gap{{After: time.UnixMilli(1), Before: time.UnixMilli(4), Missed: 3}}
	if diff := cmp.Diff(want, d.AppendGaps(nil)); diff != "" {
		t.Error(diff)
	}
}

func TestTheEndOfTheStream(t *testing.T) {
	line := drive(1, Drive{ReadBytes: 1}).text()
	for name, tt := range map[string]struct {
		stream string
		read   uint64
		gap    bool
	}{
		"after a line":     {line, 1, false},
		"before its end":   {strings.TrimSuffix(line, "\n"), 1, false},
		"within a line":    {line + line[:700], 1, true},
		"before any line":  {"", 0, false},
		"in one too long":  {line + strings.Repeat("x", maxLine+1), 1, true},
		"garbage and none": {"x", 0, true},
	} {
		d := decoder(t, onlyA())
		d.Feed([]byte(tt.stream))
		d.End()
		gaps := d.AppendGaps(nil)
		if d.Totals().Drives["a"].ReadBytes != tt.read || len(gaps) > 0 != tt.gap || d.InGap() {
			t.Errorf("%s: %+v, gaps %v", name, d.Totals().Drives, gaps)
		}
		if tt.gap && !gaps[0].Before.IsZero() {
			t.Errorf("%s: the gap ends at %s", name, gaps[0].Before)
		}
	}
}

func TestGapsAreBoundedAndCoverWhatIsMissing(t *testing.T) {
	d := decoder(t, onlyA())
	for i := range int64(3 * maxGaps) {
		d.Feed([]byte("garbage\n" + drive(i+1, Drive{}).text()))
	}
	gaps := d.AppendGaps(nil)
	if len(gaps) != maxGaps {
		t.Fatalf("%d gaps are kept, want %d", len(gaps), maxGaps)
	}
	var unread uint64
	for i, g := range gaps {
		unread += g.Unread
		if i > 0 && g.After != gaps[i-1].Before {
			t.Errorf("gap %d begins at %s, the one before ends at %s", i, g.After, gaps[i-1].Before)
		}
	}
	if unread != 3*maxGaps || gaps[maxGaps-1].Before != time.UnixMilli(3*maxGaps) {
		t.Errorf("%d unread until %s", unread, gaps[maxGaps-1].Before)
	}
}

func TestLinesAreBounded(t *testing.T) {
	head, tail, _ := strings.Cut(drive(1, Drive{ReadBytes: 1}).text(), `"filler_0"`)
	tail = `"filler_0"` + tail
	fit := maxLine - len(head) - len(tail) + 1 // the newline is not of the line
	for spaces, lines := range map[int]uint64{fit: 1, fit + 1: 0} {
		d := decoder(t, onlyA())
		for _, chunk := range [][]byte{[]byte(head), bytes.Repeat([]byte(" "), spaces), []byte(tail)} {
			d.Feed(chunk)
		}
		if d.Totals().Lines != lines {
			t.Errorf("with %d spaces %d lines were read, want %d", spaces, d.Totals().Lines, lines)
		}
		if cap(d.pending) > keepBuffer {
			t.Errorf("%d bytes of buffer are kept", cap(d.pending))
		}
	}
}

func TestIDs(t *testing.T) {
	for _, devices := range []Devices{
		{Drives: []string{"a", "a"}}, {Networks: []string{"a", "a"}}, {Drives: []string{""}}, {Drives: []string{"a-b"}},
		{Drives: []string{`a"`}}, {Networks: []string{"é"}},
	} {
		if _, err := New(devices); err == nil {
			t.Errorf("%+v is accepted", devices)
		}
	}
	decoder(t, Devices{Drives: []string{"a"}, Networks: []string{"a"}})
}

// TestCutsDoNotMatter feeds a stream with everything odd in it, cut at every byte, and with a metald that restarts
// there.
func TestCutsDoNotMatter(t *testing.T) {
	short := func(stamp int64, n uint64) string {
		return `{"utc_timestamp_ms":` + strconv.FormatInt(stamp, 10) + `,"block_a":` + driveText(Drive{ReadBytes: n}) + "}\n"
	}
	stream := short(1, 1) + "\n" + short(2, 2)[:90] + short(3, 4) + "garbage\n" + short(4, 8) + short(5, 16)[:60]
	whole := decoder(t, onlyA())
	whole.Feed([]byte(stream))
	want := whole.State()
	for i := range len(stream) + 1 {
		d := decoder(t, onlyA())
		d.Feed([]byte(stream[:i]))
		restarted := restart(t, d, true)
		d.Feed([]byte(stream[i:]))
		restarted.Feed([]byte(stream[i:]))
		if diff := cmp.Diff(want, d.State()); diff != "" {
			t.Fatalf("cut at %d: %s", i, diff)
		}
		if diff := cmp.Diff(jsonOf(t, want), jsonOf(t, restarted.State())); diff != "" {
			t.Fatalf("restarted at %d: %s", i, diff)
		}
	}
	if want.Counters["block_a"]["read_bytes"] != 1+4+8 || len(want.Gaps) != 2 {
		t.Errorf("%+v", want)
	}
}

func restart(t rapid.TB, d *Decoder, contiguous bool) *Decoder {
	t.Helper()
	var s State
	if err := json.Unmarshal([]byte(jsonOf(t, d.State())), &s); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(onlyA(), s, contiguous)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func jsonOf(t rapid.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAMetaldThatCrashedLeavesAGap(t *testing.T) {
	line := drive(1, Drive{ReadBytes: 1}).text()
	d := decoder(t, onlyA())
	d.Feed([]byte(line + line[:800]))
	again := restart(t, d, false)
	// It comes back at a byte that fits what it had: nothing may be made of the two halves.
	again.Feed([]byte(line[800:] + drive(7, Drive{ReadBytes: 2}).text()))
	if got := again.Totals().Drives["a"].ReadBytes; got != 3 {
		t.Errorf("read %d bytes, want 3", got)
	}
	want := []Gap{{After: time.UnixMilli(1), Before: time.UnixMilli(7), Unread: 1, Told: 1}}
	if diff := cmp.Diff(want, again.AppendGaps(nil)); diff != "" {
		t.Error(diff)
	}
}

func TestStatesThatCannotBeContinuedAreRefused(t *testing.T) {
	good := decoder(t, onlyA()).State()
	for name, change := range map[string]func(*State){
		"version": func(s *State) { s.Version++ },
		"device":  func(s *State) { s.Counters["block_b"] = map[string]uint64{"read_bytes": 1} },
		"counter": func(s *State) { s.Counters["block_a"] = map[string]uint64{"bytes": 1} },
	} {
		s := good
		s.Counters = map[string]map[string]uint64{}
		change(&s)
		if _, err := Restore(onlyA(), s, true); err == nil {
			t.Errorf("another %s is accepted", name)
		}
	}
}
