package main

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

func call(t *testing.T, args []string, environ ...string) (code int, out, log string) {
	t.Helper()
	var o, l bytes.Buffer
	code = run(t.Context(), args, environ, &o, &l)
	return code, o.String(), l.String()
}

func TestHelpAndVersion(t *testing.T) {
	if code, out, _ := call(t, []string{"-help"}); code != 0 || !strings.Contains(out, "UNKEY_METALD_STATE_DIR") || !strings.Contains(out, "-check") {
		t.Errorf("-help: %d, %s", code, out)
	}
	if code, out, _ := call(t, []string{"-version"}); code != 0 || !strings.HasPrefix(out, "metald ") || !strings.Contains(out, "go1.") {
		t.Errorf("-version: %d, %s", code, out)
	}
}

func TestWrongSettingsExitWith2(t *testing.T) {
	code, _, log := call(t, []string{"-port=x"}, "UNKEY_METALD_BAKCEND=qemu")
	if code != exitUsage || !strings.Contains(log, "UNKEY_METALD_PORT") || !strings.Contains(log, "did you mean UNKEY_METALD_BACKEND?") {
		t.Errorf("%d, %s", code, log)
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	code, out, _ := call(t, []string{"-check", "-qemu-binary=/nowhere/qemu", "-firecracker-binary=/nowhere/firecracker", "-cloud-hypervisor-binary=/nowhere/cloud-hypervisor", "-state-dir=" + t.TempDir()})
	if code != exitFailed || !strings.Contains(out, "qemu: not usable") || !strings.Contains(out, "/nowhere/qemu") || !strings.Contains(out, "no VM can run") {
		t.Errorf("%d, %s", code, out)
	}
}

func TestCheckOnAHostThatCan(t *testing.T) {
	assets := harness.Assets(t)
	code, out, log := call(t, []string{"-check", "-assets-dir=" + assets, "-state-dir=" + t.TempDir(), "-qemu-accel=tcg"})
	if code != exitOK || !strings.Contains(out, "qemu: usable") || !strings.Contains(out, "firecracker: ") || !strings.Contains(out, "cloudhypervisor: ") {
		t.Errorf("%d, %s%s", code, out, log)
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	code, _, log := call(t, []string{"-port=" + port, "-state-dir=" + t.TempDir()})
	if code != exitFailed || !strings.Contains(log, "port "+port+" of 127.0.0.1 is taken") {
		t.Errorf("%d, %s", code, log)
	}
}

// TestOneMetaldPerStateDir uses the real binary: the lock is between processes.
func TestOneMetaldPerStateDir(t *testing.T) {
	assets := harness.Assets(t)
	d := harness.Start(t, harness.Options{AssetsDir: assets, Env: []string{"UNKEY_METALD_QEMU_ACCEL=tcg"}})
	code, _, log := call(t, []string{"-port=0", "-state-dir=" + d.StateDir})
	if code != exitFailed || !strings.Contains(log, "in use by another metald (pid "+strconv.Itoa(d.PID())+")") {
		t.Errorf("%d, %s", code, log)
	}
}
