package cloudhypervisor_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

func again(t *testing.T, exe, dir string) *os.ProcessState {
	t.Helper()
	cmd := exec.Command(exe, "--api-socket", "path=api")
	cmd.Dir = dir
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState
}

// booted is the stand-in with a guest that speaks on standard output.
func booted(t *testing.T, cmdline string, args ...string) *process {
	t.Helper()
	exe, err := built()
	must(t, err)
	p := start(t, exe, args...)
	p.wants(t, `PUT /vm.create {"payload":{"kernel":"kernel","cmdline":"console=ttyS0 `+cmdline+`"},"pvpanic":true,`+
		`"disks":[{"id":"d","path":"disk","image_type":"Raw"}],"serial":{"mode":"Tty"},"console":{"mode":"Off"}}`, "204", "PUT /vm.boot", "204")
	p.until(t, "guest", func() bool { return strings.Contains(p.text("out"), guest.Marker) })
	return p
}

func TestPowerOffEndsTheProcess(t *testing.T) {
	p := booted(t, "")
	p.wants(t, "PUT /vm.power-button", "204")
	if code := p.code(t); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	if !strings.Contains(p.text("out"), guest.PowerButton) || !strings.Contains(p.text("events"), `"event": "deleted"`) {
		t.Errorf("%s\n%s", p.text("out"), p.text("events"))
	}
}

func TestNoShutdownKeepsTheProcess(t *testing.T) {
	p := booted(t, "metald.exit=poweroff", "--no-shutdown")
	p.until(t, "end of the guest", func() bool { return strings.Contains(p.ask(t, "GET /vm.info"), `"state":"Created"`) })
	p.wants(t, "PUT /vm.boot", "204")
}

func TestResetBootsAnew(t *testing.T) {
	p := booted(t, "panic=1 metald.write=1048576 metald.write_to=/dev/vda metald.exit=panic metald.after=200ms")
	if got := p.ask(t, "GET /vm.counters"); !strings.Contains(got, `"write_bytes":`) {
		t.Errorf("counters: %s", got)
	}
	p.until(t, "second boot", func() bool { return strings.Count(p.text("out"), guest.Marker) > 1 })
	events := p.text("events")
	for _, name := range []string{"panic", "rebooting", "rebooted"} {
		if !strings.Contains(events, `"event": "`+name+`"`) {
			t.Errorf("no event %s in %s", name, events)
		}
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]string{"52": "500", "53": "404", "54": "404"} {
		if got := start(t, withKnobs(t, "stub.version="+version+"\n")).ask(t, "GET /vm.info"); !strings.HasPrefix(got, want+" ") {
			t.Errorf("version %s answers %s", version, got)
		}
	}
}

// withKnobs is a copy of the stand-in with lines in the file of its knobs.
func withKnobs(t *testing.T, lines string) string {
	t.Helper()
	exe, err := built()
	must(t, err)
	text, err := os.ReadFile(exe)
	must(t, err)
	copied := filepath.Join(t.TempDir(), "ch")
	must(t, os.WriteFile(copied, text, 0o700))
	must(t, os.WriteFile(copied+".knobs", []byte(lines), 0o600))
	return copied
}

func TestMute(t *testing.T) {
	p := start(t, withKnobs(t, "stub.mute=PUT:/vm.pause\n"))
	p.wants(t, "PUT /vm.delete", "204")
	p.http.Timeout = 200 * time.Millisecond
	for _, path := range []string{"vm.pause", "vmm.ping"} { // and nothing behind it
		req, err := http.NewRequest("PUT", "http://x/api/v1/"+path, nil)
		must(t, err)
		if resp, err := p.http.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("%s is answered with %s", path, resp.Status)
		}
	}
}

func TestDie(t *testing.T) {
	if got := again(t, withKnobs(t, "stub.die=7\n"), t.TempDir()); got.ExitCode() != 7 {
		t.Errorf("it ends with %d", got.ExitCode())
	}
}
