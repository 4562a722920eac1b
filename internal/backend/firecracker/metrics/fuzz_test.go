package metrics

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzStream feeds anything, whole and cut in two: both come to the same, and everything that counted was JSON that
// encoding/json reads alike.
func FuzzStream(f *testing.F) {
	line := `{"utc_timestamp_ms":1,"block_a":` + driveText(Drive{ReadBytes: 3, FlushCount: 2}) + "}\n"
	for _, seed := range []string{
		line, line + line[:70] + line, line[50:] + line, "", "\n\n", "garbage\n" + line,
		strings.Replace(line, ":3,", ":-3,", 1), strings.Replace(line, ":3,", ":3e0,", 1),
		strings.Replace(line, ":3,", ":18446744073709551615,", 1) + line,
		`{"utc_timestamp_ms":1,"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}\n",
		`{"utc_timestamp_ms":1,"x":{"y":["\ud83d\\\"",-1.5e+7,true,false,null]},"logger":{"missed_metrics_count":2}}` + "\n",
		`{"utc_timestamp_ms"`, `{"utc_timestamp_ms":1}{"utc_timestamp_ms":2}` + "\n", "{\"utc_timestamp_ms\":\x00}\n",
	} {
		f.Add([]byte(seed), 7)
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		whole := decoder(t, onlyA())
		whole.Feed(stream)
		whole.End()
		parts := decoder(t, onlyA())
		cut = max(0, min(cut, len(stream)))
		parts.Feed(stream[:cut])
		parts.Feed(stream[cut:])
		parts.End()
		if diff := cmp.Diff(whole.State(), parts.State()); diff != "" {
			t.Fatalf("cut at %d: %s", cut, diff)
		}
		if lines, bytes := reference(stream); whole.lines > lines || whole.Totals().Drives["a"].ReadBytes > bytes {
			t.Fatalf("%d lines of %d, %+v of %d bytes", whole.lines, lines, whole.Totals().Drives["a"], bytes)
		}
	})
}

// reference counts the objects in a stream that encoding/json can read, and adds up the bytes read, or says that there
// is no limit.
func reference(stream []byte) (lines, read uint64) {
	for _, line := range bytes.Split(stream, []byte("\n")) {
		for i, part := range strings.Split(string(line), marker) {
			var v struct {
				Drive struct {
					ReadBytes uint64 `json:"read_bytes"`
				} `json:"block_a"`
			}
			if i == 0 || !json.Valid([]byte(marker+part)) {
				continue
			}
			lines++
			if json.Unmarshal([]byte(marker+part), &v) != nil {
				continue
			}
			if read+v.Drive.ReadBytes < read {
				return math.MaxUint64, math.MaxUint64
			}
			read += v.Drive.ReadBytes
		}
	}
	return lines, read
}
