package firecracker_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/firecracker"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// What only the stand-in does: it plays the tests' guest, and misbehaves when it is told to.

// begun is a VM of the stand-in with a console in the file s.
func begun(t testing.TB, kernelArgs string) *process {
	t.Helper()
	p := start(t, binary(t))
	p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
	p.post(t, `PUT /serial {"serial_out_path":"`+p.file("s")+`"}`, "204")
	p.boot(t, kernelArgs)
	return p
}

func (p *process) console(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(p.file("s"))
	must(t, err)
	return string(text)
}

func (p *process) hears(t testing.TB, line string) {
	t.Helper()
	eventually(t, "heard: "+line, func() bool { return strings.Contains(p.console(t), line+"\r\n") })
}

const flushMetrics = `PUT /actions {"action_type":"FlushMetrics"}`

func TestGuestWrites(t *testing.T) {
	p := begun(t, "metald.write=123456789")
	p.hears(t, guest.Marker)
	p.hears(t, guest.Wrote(123456789, guest.WriteFile))
	p.post(t, flushMetrics, "204")
	var device, sum uint64
	for _, l := range p.metrics(t) {
		device += l.number(t, "block_root", "write_bytes")
		sum += l.number(t, "block", "write_bytes")
	}
	if device != 123456789 || sum != device {
		t.Errorf("%d bytes are counted, %d in all", device, sum)
	}
}

// TestCtrlAltDel is behaviours 32 and 31, and of 24 the last line.
func TestCtrlAltDel(t *testing.T) {
	p := begun(t, "")
	p.hears(t, guest.Marker)
	p.post(t, `PUT /actions {"action_type":"SendCtrlAltDel"}`, "204")
	if code, by := p.wait(t); code != 0 || by != 0 {
		t.Errorf("code %d, signal %v", code, by)
	}
	p.hears(t, guest.CtrlAltDel)
	p.hears(t, guest.Restarting)
	if lines := p.metrics(t); len(lines) != 2 || lines[1].number(t, "i8042", "reset_count") != 1 {
		t.Errorf("%d lines of metrics", len(lines))
	}
	if !strings.HasSuffix(p.said(t), "[anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n") {
		t.Errorf("the last words are %s", p.said(t))
	}
}

func TestEndsOfTheGuest(t *testing.T) {
	for name, tt := range map[string]struct {
		args  string
		says  string
		stays bool
	}{
		"reboot":               {"metald.exit=reboot", guest.Restarting, false},
		"panic":                {"metald.exit=panic", guest.Panicking, false},
		"panic without reboot": {"metald.exit=panic panic=0", guest.Panicking, true},
		"power off":            {"metald.exit=poweroff", guest.PoweringOff, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := begun(t, tt.args)
			p.hears(t, tt.says)
			if tt.stays {
				for range 4 {
					p.post(t, `PUT /actions {"action_type":"SendCtrlAltDel"}`, "204")
				}
				p.post(t, `PUT /actions {"action_type":"SendCtrlAltDel"}`, `400 {"fault_message":"Internal VMM error: I8042 error: i8042 internal buffer full."}`)
				p.post(t, "GET /", `200 {"id":"anonymous-instance","state":"Running"`)
				return
			}
			if code, by := p.wait(t); code != 0 || by != 0 {
				t.Errorf("code %d, signal %v", code, by)
			}
		})
	}
}

func TestGuestThatIgnoresTheButton(t *testing.T) {
	p := begun(t, "metald.power=ignore")
	p.hears(t, guest.Marker)
	p.post(t, `PUT /actions {"action_type":"SendCtrlAltDel"}`, "204")
	p.hears(t, guest.CtrlAltDel+guest.Ignored)
	p.post(t, "GET /", "200")
}

// TestPauseStopsTheGuest is behaviour 18 as the guest sees it.
func TestPauseStopsTheGuest(t *testing.T) {
	p := begun(t, "stub.boot=50ms metald.count=1")
	p.post(t, `PATCH /vm {"state":"Paused"}`, "204")
	time.Sleep(1200 * time.Millisecond) // more than the guest needs for its first word, and its first second
	if text := p.console(t); text != "" {
		t.Errorf("a guest that is paused says %q", text)
	}
	p.post(t, `PATCH /vm {"state":"Resumed"}`, "204")
	p.hears(t, guest.Second(1))
}

// TestNoConsole: a guest whose kernel was told of no console has none.
func TestNoConsole(t *testing.T) {
	p := begun(t, "8250.nr_uarts=0 metald.exit=reboot")
	p.wait(t)
	if text := p.console(t); text != "" {
		t.Errorf("the console says %q", text)
	}
}

// TestFloodIsLost: a console that nobody reads loses what it can't hold, and stops nobody.
func TestFloodIsLost(t *testing.T) {
	p := start(t, binary(t))
	must(t, syscall.Mkfifo(p.file("s"), 0o600))
	p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
	p.post(t, `PUT /serial {"serial_out_path":"`+p.file("s")+`"}`, "204")
	p.boot(t, "metald.flood=1")
	eventually(t, "lost", func() bool {
		p.post(t, flushMetrics, "204")
		lines := p.metrics(t)
		return lines[len(lines)-1].number(t, "uart", "missed_write_count") > 0
	})
}

// TestSnapshot is behaviours 19, 20 and 38, as far as a snapshot is the stand-in's own.
func TestSnapshot(t *testing.T) {
	p := begun(t, "")
	must(t, os.WriteFile(p.file("mem"), []byte("old"), 0o600))
	p.post(t, `PATCH /vm {"state":"Paused"}`, "204")
	p.post(t, fmt.Sprintf(`PUT /snapshot/create {"snapshot_path":%q,"mem_file_path":%q}`, p.file("snap"), p.file("mem")), "204")
	if info, err := os.Stat(p.file("mem")); err != nil || info.Size() != 128<<20 {
		t.Errorf("memory: %v, %v", info, err)
	}
	q := start(t, binary(t))
	q.post(t, `PUT /metrics {"metrics_path":"`+q.file("m")+`"}`, "204")
	q.post(t, fmt.Sprintf(`PUT /snapshot/load {"snapshot_path":%q,"mem_backend":{"backend_type":"File","backend_path":%q}}`, p.file("snap"), p.file("mem")), "204")
	q.post(t, "GET /", `200 {"id":"anonymous-instance","state":"Paused"`)
	q.post(t, "GET /vm/config", `200 {"balloon":null,"drives":[],"boot-source":{"kernel_image_path":"","initrd_path":null,"boot_args":null}`)
}

// copied is a copy of the stand-in that has knobs of its own.
func copied(t *testing.T, knobs ...string) string {
	t.Helper()
	dir := dirFor(t)
	path := filepath.Join(dir, "firecracker")
	must(t, os.Link(binary(t), path))
	must(t, os.WriteFile(path+firecracker.KnobsSuffix, []byte(strings.Join(knobs, "\n")+"\n"), 0o644))
	return path
}

func TestKnobsBeforeTheSocket(t *testing.T) {
	t.Run("die", func(t *testing.T) {
		p := launch(t, copied(t, "stub.die=7", "stub.noise=10"), dirFor(t))
		if code, _ := p.wait(t); code != 7 {
			t.Errorf("code %d", code)
		}
		if p.err.Len() < 10<<10 {
			t.Errorf("%d bytes of noise", p.err.Len())
		}
	})
	t.Run("no socket", func(t *testing.T) {
		p := launch(t, copied(t, "stub.nosocket=1"), dirFor(t))
		eventually(t, "up", func() bool { return strings.Contains(p.said(t), "Running") })
		if _, err := os.Stat(p.socket); err == nil {
			t.Error("there is a socket")
		}
	})
	t.Run("slow", func(t *testing.T) {
		began := time.Now()
		start(t, copied(t, "stub.start=300ms"))
		if d := time.Since(began); d < 300*time.Millisecond {
			t.Errorf("up in %s", d)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		p := launch(t, copied(t, "stub.colour=red"), dirFor(t))
		if code, _ := p.wait(t); code != 1 || !strings.Contains(p.err.String(), "stub.colour=red: no such knob") {
			t.Errorf("code %d: %s", code, p.err)
		}
	})
	t.Run("chatter", func(t *testing.T) {
		p := start(t, copied(t, "stub.chatter=1"))
		eventually(t, "talking", func() bool { return len(p.said(t)) > 1<<20 })
		p.post(t, "GET /", "200")
	})
}

func TestKnobsOfTheAPI(t *testing.T) {
	for name, want := range map[string]string{
		"stub.garbage=1": "220 mail.example.com ESMTP\r\n",
		"stub.half=1":    "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: appl",
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, copied(t, name))
			conn, err := net.Dial("unix", p.socket)
			must(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, "GET /version HTTP/1.1\r\n\r\n")
			must(t, err)
			got, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(want, string(got)) || len(got) == 0 {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestMuteCall is behaviour 28 as well: who is behind a call that hangs hangs, too.
func TestMuteCall(t *testing.T) {
	p := begun(t, "stub.mute=PUT:/actions/FlushMetrics")
	p.post(t, "GET /", "200")
	for _, ask := range []string{flushMetrics, "GET /"} {
		conn, err := net.Dial("unix", p.socket)
		must(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, request(ask))
		must(t, err)
		if got := p.raw(t, conn, `""`); got != `""` {
			t.Errorf("%s: %s", ask, got)
		}
	}
}

// TestSlowCallsQueue is behaviour 28.
func TestSlowCallsQueue(t *testing.T) {
	p := start(t, copied(t, "stub.slow=100ms"))
	began := time.Now()
	done := make(chan string, 3)
	for range 3 {
		go func() { done <- p.ask(t, "GET /") }()
	}
	for range 3 {
		if got := <-done; !strings.HasPrefix(got, "200") {
			t.Error(got)
		}
	}
	if d := time.Since(began); d < 300*time.Millisecond {
		t.Errorf("three calls took %s", d)
	}
}

func TestCrash(t *testing.T) {
	p := start(t, binary(t))
	p.post(t, `PUT /boot-source {"kernel_image_path":"`+p.file("kernel")+`","boot_args":"stub.crash=1"}`, "204")
	_ = p.ask(t, `PUT /actions {"action_type":"InstanceStart"}`)
	if _, by := p.wait(t); by != syscall.SIGABRT {
		t.Errorf("signal %v", by)
	}
}

// TestTruth: what the guest did, what was handed to the writer, and what can be read are told apart.
func TestTruth(t *testing.T) {
	p := start(t, binary(t))
	must(t, syscall.Mkfifo(p.file("m"), 0o600))
	p.post(t, `PUT /metrics {"metrics_path":"`+p.file("m")+`"}`, "204")
	p.boot(t, "stub.traffic=1000 stub.period=20ms stub.truth="+p.file("truth"))
	type truth struct {
		Line     int
		Written  bool
		Counters map[string]struct{ Total, Taken uint64 }
	}
	last := func() (last truth) {
		text, err := os.ReadFile(p.file("truth"))
		if err != nil {
			return last
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		_ = json.Unmarshal([]byte(lines[len(lines)-1]), &last)
		return last
	}
	eventually(t, "full", func() bool { l := last(); return l.Line > 10 && !l.Written })
	l := last()
	c := l.Counters["block_root.write_bytes"]
	if c.Taken > c.Total || c.Total%1000 != 0 || c.Total == 0 {
		t.Errorf("line %d: %+v", l.Line, c)
	}
}
