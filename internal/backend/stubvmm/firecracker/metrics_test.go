package firecracker_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// running starts a VM with a disk, and metrics in the file m of its directory. more are kernel arguments.
func running(t testing.TB, exe, more string) *process {
	t.Helper()
	p := start(t, exe, "--level", "Off")
	p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
	p.boot(t, more)
	p.awaitLine(t)
	return p
}

// awaitLine waits for the line of the start, which comes after the answer.
func (p *process) awaitLine(t testing.TB) {
	t.Helper()
	eventually(t, "a line of metrics", func() bool {
		text, err := os.ReadFile(p.file("m"))
		return err == nil && strings.HasSuffix(string(text), "\n")
	})
}

func (p *process) file(name string) string { return filepath.Join(filepath.Dir(p.socket), name) }

func (p *process) boot(t testing.TB, more string) {
	t.Helper()
	p.post(t, `PUT /boot-source {"kernel_image_path":"`+p.file("kernel")+`","boot_args":"console=ttyS0 reboot=k panic=1 `+more+`"}`, "204")
	p.post(t, `PUT /drives/root {"drive_id":"root","path_on_host":"`+p.file("disk")+`","is_root_device":true}`, "204")
	p.post(t, `PUT /actions {"action_type":"InstanceStart"}`, "204")
}

// line is one of metrics.
type line map[string]json.RawMessage

func (l line) number(t testing.TB, group, field string) uint64 {
	t.Helper()
	var g map[string]json.RawMessage
	must(t, json.Unmarshal(l[group], &g))
	var n uint64
	must(t, json.Unmarshal(g[field], &n))
	return n
}

func (p *process) metrics(t testing.TB) []line {
	t.Helper()
	text, err := os.ReadFile(p.file("m"))
	must(t, err)
	var lines []line
	for _, s := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		var l line
		if err := json.Unmarshal([]byte(s), &l); err != nil {
			t.Fatalf("line %q: %v", s, err)
		}
		lines = append(lines, l)
	}
	return lines
}

// TestFieldsOfALine compares each byte of a line with what the real Firecracker wrote, but for numbers.
func TestFieldsOfALine(t *testing.T) {
	const golden = "testdata/line.json"
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe, "--level", "Off")
		p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
		p.post(t, `PUT /drives/b {"drive_id":"b","path_on_host":"`+p.file("disk2")+`","is_root_device":false}`, "204")
		p.post(t, `PUT /pmem/p {"id":"p","path_on_host":"`+p.file("disk2")+`"}`, "204")
		p.boot(t, "")
		p.awaitLine(t)
		text, err := os.ReadFile(p.file("m"))
		must(t, err)
		got := regexp.MustCompile(`:\d+`).ReplaceAllString(string(text), ":0")
		if *record && t.Name() == "TestFieldsOfALine/real" {
			must(t, os.WriteFile(golden, []byte(got), 0o644))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("line (-Firecracker +got):\n%s", diff)
		}
	})
}

// TestWhenALineIsWritten is behaviour 24 without signals and ends, and 25's counter of the flush itself.
func TestWhenALineIsWritten(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := running(t, exe, "metald.power=ignore")
		if lines := p.metrics(t); len(lines) != 1 || lines[0].number(t, "put_api_requests", "actions_count") != 1 {
			t.Errorf("after the start: %v", lines)
		}
		p.post(t, `PUT /actions {"action_type":"FlushMetrics"}`, "204")
		p.post(t, `PATCH /vm {"state":"Paused"}`, "204")
		p.post(t, `PUT /actions {"action_type":"FlushMetrics"}`, "204")
		lines := p.metrics(t)
		if len(lines) != 3 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, l := range lines[1:] {
			if n := l.number(t, "put_api_requests", "actions_count"); n != 1 {
				t.Errorf("a line counts %d actions; its own flush is one", n)
			}
		}
		if lines[1].number(t, "put_api_requests", "metrics_count") != 0 {
			t.Error("what was told before is told again")
		}
		if lines[2].number(t, "latencies_us", "pause_vm") == 0 {
			t.Error("the time of the pause is not told")
		}
	})
}

// TestMetricsIntoAFIFO is behaviours 23 and 26: no reader is needed, and what a full pipe does not take is torn.
func TestMetricsIntoAFIFO(t *testing.T) {
	const flush = `PUT /actions {"action_type":"FlushMetrics"}`
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe, "--level", "Off")
		must(t, unix.Mkfifo(p.file("m"), 0o600))
		p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
		p.boot(t, "metald.power=ignore")
		var refused string
		whole := 1
		for refused == "" {
			if answer := p.ask(t, flush); answer != "204" {
				refused = answer
				break
			}
			if whole++; whole > 20 {
				t.Fatal("the pipe is never full")
			}
		}
		const want = `400 {"fault_message":"Internal VMM error: Metrics error: Resource temporarily unavailable (os error 11)"}`
		if refused != want {
			t.Errorf("a full pipe is answered with %s", refused)
		}
		fd, err := unix.Open(p.file("m"), unix.O_RDONLY|unix.O_NONBLOCK, 0)
		must(t, err)
		defer unix.Close(fd)
		lines := strings.SplitAfter(string(drain(t, fd)), "\n")
		if len(lines) != whole+1 || lines[whole] == "" || !strings.HasPrefix(lines[whole], `{"utc_timestamp_ms"`) {
			t.Fatalf("%d lines whole were answered for; there are %d, and %.40q at last", whole, len(lines)-1, lines[len(lines)-1])
		}
		p.post(t, flush, "204")
		rest := string(drain(t, fd))
		if strings.Count(rest, "\n") != 1 || strings.HasPrefix(rest, `{"utc`) || strings.Count(rest, "utc_timestamp_ms") != 1 {
			t.Errorf("the next line does not have the rest of the torn one before it: %.60q", rest)
		}
		if at := strings.Index(rest, `{"utc`); at < 1 || at > 1024 {
			t.Errorf("the rest of the torn line has %d bytes", at)
		}
	})
}

func drain(t testing.TB, fd int) []byte {
	t.Helper()
	var all []byte
	for buf := make([]byte, 1<<16); ; {
		n, err := unix.Read(fd, buf)
		if err == unix.EAGAIN {
			return all
		}
		must(t, err)
		all = append(all, buf[:n]...)
	}
}

// TestNoSink is behaviour 27, and TestSinkIsMade the rest of 23.
func TestNoSink(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		p.boot(t, "")
		p.post(t, `PUT /actions {"action_type":"FlushMetrics"}`, "204")
	})
}

func TestSinkIsMade(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
		info, err := os.Stat(p.file("m"))
		must(t, err)
		if !info.Mode().IsRegular() {
			t.Errorf("%v was made", info.Mode())
		}
	})
}

// eventually waits for a thing.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %s: not %s", patience, what)
		}
	}
}
