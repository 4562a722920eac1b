package config

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func build() Choices {
	return Choices{Backends: []string{"qemu"}}
}

func load(args []string, environ ...string) (Config, error) {
	return Load(flag.NewFlagSet("metald", flag.ContinueOnError), args, environ, build())
}

func TestDefaults(t *testing.T) {
	c, err := load(nil, "PATH=/bin", "UNKEY_OTHER=1")
	if err != nil {
		t.Fatal(err)
	}
	if c.Address != "127.0.0.1" || c.Port != 8080 || c.Backend != "auto" || c.VolumesDir != "/var/lib/metald/volumes" ||
		c.ConsoleLogBytes != 1<<20 || c.StopTimeout != 10*time.Second || c.ReflectionEnabled {
		t.Errorf("defaults are %+v", c)
	}
}

func TestPrecedence(t *testing.T) {
	c, err := load([]string{"-port=3", "-reflection-enabled"}, "UNKEY_METALD_PORT=2", "UNKEY_METALD_MAX_VMS=7", "UNKEY_METALD_REFLECTION_ENABLED=false")
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 3 || c.MaxVMs != 7 || !c.ReflectionEnabled {
		t.Errorf("flag, then environment, then default: got port %d, max-vms %d, reflection %t", c.Port, c.MaxVMs, c.ReflectionEnabled)
	}
}

func TestBadValuesStopTheStart(t *testing.T) {
	for _, tt := range []struct {
		name, env, want string
	}{
		{"bool word", "UNKEY_METALD_REFLECTION_ENABLED=yes", `"yes" is neither true nor false`},
		{"empty bool", "UNKEY_METALD_REFLECTION_ENABLED=", `"" is neither true nor false`},
		{"number", "UNKEY_METALD_PORT=http", `"http" is not a whole number`},
		{"number with a tail", "UNKEY_METALD_PORT=80 ", "not a whole number"},
		{"too large", "UNKEY_METALD_PORT=65536", "more than the most allowed, 65535"},
		{"too small", "UNKEY_METALD_MAX_VMS=0", "less than the least allowed, 1"},
		{"beyond int", "UNKEY_METALD_MAX_VMS=99999999999999999999", "not a whole number"},
		{"size", "UNKEY_METALD_CONSOLE_LOG_BYTES=1Mb", "is not a size"},
		{"size below", "UNKEY_METALD_CONSOLE_LOG_BYTES=1KiB", "1KiB is less than the least allowed, 4KiB"},
		{"size overflow", "UNKEY_METALD_CONSOLE_LOG_BYTES=99999999999TiB", "is not a size"},
		{"negative size", "UNKEY_METALD_CONSOLE_LOG_BYTES=-1", "is not a size"},
		{"duration", "UNKEY_METALD_STOP_TIMEOUT=10", "is not a duration"},
		{"choice", "UNKEY_METALD_LOG_LEVEL=loud", `"loud" is none of debug, info, warn, error`},
		{"relative path", "UNKEY_METALD_STATE_DIR=state", "is not an absolute path"},
		{"empty path", "UNKEY_METALD_STATE_DIR=", "is not an absolute path"},
		{"state in assets", "UNKEY_METALD_STATE_DIR=/opt/vm-assets/state", "lies in UNKEY_METALD_ASSETS_DIR"},
		{"unknown backend", "UNKEY_METALD_BACKEND=xen", `"xen" is none of auto, qemu`},
		{"later feature", "UNKEY_METALD_OTEL_ENABLED=true", "exports no telemetry"},
		{"later variable", "UNKEY_METALD_BILLING_ENABLED=true", "this build does not meter"},
		{"a jail that is none", "UNKEY_METALD_JAILER_ENABLED=yes", "neither true nor false"},
		{"jailed root", "UNKEY_METALD_JAILER_UID=0", "0 is less than the least allowed, 1"},
		{"root's group", "UNKEY_METALD_JAILER_GID=0", "0 is less than the least allowed, 1"},
		{"jails among other things", "UNKEY_METALD_JAILER_CHROOT_DIR=/var/lib/metald/vms", "where metald keeps other things"},
		{"sockets among records", "UNKEY_METALD_RUNTIME_DIR=/var/lib/metald/run", "lie beside each other"},
		{"sockets among templates", "UNKEY_METALD_RUNTIME_DIR=/opt/vm-assets/run", "lie beside each other"},
		{"users that overlap", "UNKEY_METALD_JAILER_UID=700999", "two of 1000 VMs could be one user"},
		{"groups that overlap", "UNKEY_METALD_JAILER_GID=699001", "two of 1000 VMs could be one user"},
		{"typo", "UNKEY_METALD_BAKCEND=qemu", "did you mean UNKEY_METALD_BACKEND?"},
		{"lower case", "UNKEY_METALD_port=1", "did you mean UNKEY_METALD_PORT?"},
		{"nonsense", "UNKEY_METALD_QQQQQQQQQQ=1", "metald -help lists them"},
		{"open address", "UNKEY_METALD_ADDRESS=0.0.0.0", "UNKEY_METALD_INSECURE_BIND=true"},
		{"host name as address", "UNKEY_METALD_ADDRESS=example.org", "is not an IP address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(nil, tt.env)
			name, _, _ := strings.Cut(tt.env, "=")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), name+": ") {
				t.Errorf("%s: got %v, want %s: …%s…", tt.env, err, name, tt.want)
			}
		})
	}
}

func TestBadFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"-prot=1":      "-prot: there is no such setting; did you mean -port?",
		"-port=x":      `-port (UNKEY_METALD_PORT): "x" is not a whole number`,
		"serve":        `unexpected argument "serve"`,
		"-otel-enable": "this build exports no telemetry",
	} {
		if _, err := load([]string{arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want …%s…", arg, err, want)
		}
	}
	if _, err := load([]string{"-help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: got %v", err)
	}
}

// TestRetiredSettings is about what once was the address of a Cloud Hypervisor for all VMs. Whoever still sets it is told
// what to do instead.
func TestRetiredSettings(t *testing.T) {
	for _, tt := range []struct {
		args []string
		env  string
		name string
	}{
		{env: "UNKEY_METALD_CH_ENDPOINT=unix:///tmp/ch.sock", name: "UNKEY_METALD_CH_ENDPOINT"},
		{env: "UNKEY_METALD_SOCKET=/tmp/ch.sock", name: "UNKEY_METALD_SOCKET"},
		{env: "UNKEY_METALD_SOCKET=", name: "UNKEY_METALD_SOCKET"},
		{args: []string{"-socket=/tmp/ch.sock"}, name: "-socket"},
		{args: []string{"-socket", "/tmp/ch.sock"}, name: "-socket"},
		{args: []string{"--socket", "/tmp/ch.sock"}, name: "-socket"},
		{args: []string{"-ch-endpoint", "/tmp/ch.sock"}, name: "-ch-endpoint"},
	} {
		environ := []string{}
		if tt.env != "" {
			environ = append(environ, tt.env)
		}
		_, err := load(tt.args, environ...)
		want := tt.name + ": this setting is no more: metald starts one VMM per VM and connects to none that runs already; " +
			"choose the hypervisor with UNKEY_METALD_BACKEND, or for one VM with the field backend of CreateVm"
		if err == nil || err.Error() != want {
			t.Errorf("%v %s: got %v, want %s", tt.args, tt.env, err, want)
		}
	}
}

func TestRangesOfUsers(t *testing.T) {
	for _, environ := range [][]string{
		{"UNKEY_METALD_JAILER_UID=701000"},
		{"UNKEY_METALD_JAILER_UID=699000"},
		{"UNKEY_METALD_JAILER_UID=700001", "UNKEY_METALD_MAX_VMS=1"},
		{"UNKEY_METALD_JAILER_UID=700001", "UNKEY_METALD_JAILER_ENABLED=false"},
		{"UNKEY_METALD_JAILER_UID=1", "UNKEY_METALD_VMM_UID_BASE=0"},
	} {
		if _, err := load(nil, environ...); err != nil {
			t.Errorf("%v: %v", environ, err)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := load([]string{"-nope"}, "UNKEY_METALD_PORT=x", "UNKEY_METALD_MAX_VMS=0", "UNKEY_METALD_GONE=1")
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 4 {
		t.Errorf("want a line for each of 4 faults, got:\n%v", err)
	}
}

// TestNoFaultHidesAnother is about faults that are found at different times: flags that package flag does not know,
// values, and rules over several fields.
func TestNoFaultHidesAnother(t *testing.T) {
	_, err := load([]string{"-nope", "1", "---", "-max-vms", "0", "word", "-log-level=loud", "-qemu-accel"},
		"UNKEY_METALD_PORT=x", "UNKEY_METALD_ADDRESS=0.0.0.0", "UNKEY_METALD_OTEL_ENABLED=true", "UNKEY_METALD_STATE_DIR=/opt/vm-assets/s")
	for _, want := range []string{
		"-nope:", "bad flag syntax: ---", "-max-vms ", `"word"`, "-log-level ", "needs an argument: -qemu-accel",
		"UNKEY_METALD_PORT:", "UNKEY_METALD_ADDRESS:", "UNKEY_METALD_OTEL_ENABLED:", "UNKEY_METALD_STATE_DIR:",
	} {
		if strings.Count(err.Error(), want) != 1 {
			t.Errorf("%q stands not once in:\n%v", want, err)
		}
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 10 {
		t.Errorf("want 10 lines, got:\n%v", err)
	}
}

func TestOneFaultIsReportedOnce(t *testing.T) {
	for _, env := range []string{"UNKEY_METALD_STATE_DIR=rel", "UNKEY_METALD_ASSETS_DIR=rel", "UNKEY_METALD_VOLUMES_DIR=rel", "UNKEY_METALD_INSECURE_BIND=x"} {
		if _, err := load(nil, env); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: want one line, got:\n%v", env, err)
		}
	}
}

func TestStateIsNoVolume(t *testing.T) {
	for _, volumes := range []string{"/s", "/", "/s/"} {
		_, err := load(nil, "UNKEY_METALD_STATE_DIR=/s", "UNKEY_METALD_VOLUMES_DIR="+volumes)
		if err == nil || !strings.Contains(err.Error(), "lies in UNKEY_METALD_VOLUMES_DIR") {
			t.Errorf("a guest could be given metald's records with volumes in %s: %v", volumes, err)
		}
	}
}

func TestFilesOfClientsLieNotWhereMetaldSweeps(t *testing.T) {
	for _, env := range []string{
		"UNKEY_METALD_VOLUMES_DIR=/s/vms", "UNKEY_METALD_VOLUMES_DIR=/s/run/x", "UNKEY_METALD_ASSETS_DIR=/s/vms/assets", "UNKEY_METALD_ASSETS_DIR=/s/run",
	} {
		name, _, _ := strings.Cut(env, "=")
		if _, err := load(nil, "UNKEY_METALD_STATE_DIR=/s", env); err == nil || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: metald would remove the files in it: %v", env, err)
		}
	}
	if _, err := load(nil, "UNKEY_METALD_STATE_DIR=/s", "UNKEY_METALD_ASSETS_DIR=/s/assets", "UNKEY_METALD_VOLUMES_DIR=/s/vms2"); err != nil {
		t.Error(err)
	}
}

func TestOpenAddressOnRequest(t *testing.T) {
	if _, err := load([]string{"-insecure-bind"}, "UNKEY_METALD_ADDRESS=0.0.0.0"); err != nil {
		t.Error(err)
	}
	if _, err := load(nil, "UNKEY_METALD_ADDRESS=::1"); err != nil {
		t.Error(err)
	}
}

func TestWhoIsBilledWhereIsSaidWell(t *testing.T) {
	for _, env := range []string{
		"UNKEY_METALD_BILLING_ENDPOINT=127.0.0.1:8081", "UNKEY_METALD_BILLING_ENDPOINT=ftp://b.example", "UNKEY_METALD_BILLING_ENDPOINT=http://",
		"UNKEY_METALD_BILLING_ENDPOINT=http://b.example/?x=1", "UNKEY_METALD_BILLING_ENDPOINT=http://user:word@b.example",
		"UNKEY_METALD_HOST_ID=two words", "UNKEY_METALD_HOST_ID=" + strings.Repeat("h", 129),
	} {
		name, _, _ := strings.Cut(env, "=")
		if _, err := load(nil, env); err == nil || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: %v", env, err)
		}
	}
}

// secrets compares what they hide.
var secrets = cmp.Comparer(func(a, b Secret) bool { return a.Reveal() == b.Reveal() })

func TestRoundTrip(t *testing.T) {
	want := Config{
		Backend: "qemu", Address: "::1", Port: 1, InsecureBind: true, AllowedHosts: []string{"a", "b.example"},
		ReflectionEnabled: true, StateDir: "/s", RuntimeDir: "/r", AssetsDir: "/a", VolumesDir: "/v", MaxVMs: 5, ConsoleLogBytes: 12345,
		VMMUIDBase: 9, QEMUBinary: "/bin/q", FirecrackerBinary: "/bin/f", CloudHypervisorBinary: "/bin/c", JailerEnabled: true, JailerBinary: "/bin/j",
		JailerUID: 3, JailerGID: 4, JailerChrootDir: "/j", JailerNetNS: true, JailerPIDNS: true, JailerMemoryLimit: 7,
		JailerCPUQuota: 250, JailerFDLimit: 100, JailerIOLimit: 8, QEMUAccel: "tcg", HostID: "h",
		BillingEndpoint: "http://b.example", BillingToken: NewSecret("t"), WALQuotaBytes: 1 << 30, WALRetention: time.Minute, AuditEvery: time.Hour, LogLevel: "debug", LogFormat: "json",
		StopTimeout: 1500 * time.Millisecond, OTelEnabled: false,
	}
	got, err := load(nil, want.Environ()...)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, secrets); diff != "" {
		t.Error(diff)
	}
	v := reflect.ValueOf(want)
	for i := range v.NumField() {
		if v.Field(i).IsZero() && v.Type().Field(i).Name != "OTelEnabled" {
			t.Errorf("%s is not part of the round trip", v.Type().Field(i).Name)
		}
	}
}

func TestByteSizeRoundTrip(t *testing.T) {
	for _, n := range []ByteSize{0, 1, 1023, 1024, 4096, 1 << 20, 3 << 30, 1 << 40, 1<<63 - 1} {
		if got, err := ParseByteSize(n.String()); err != nil || got != n {
			t.Errorf("%d is written %s and read %d, %v", n, n, got, err)
		}
	}
}

func TestFieldsAreWellMade(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Fields(build()) {
		if f.Name == "" || f.Doc == "" || strings.HasSuffix(f.Doc, ".") || strings.ToLower(f.Name) != f.Name {
			t.Errorf("%+v needs a name in small letters and a doc without a full stop", f)
		}
		if seen[f.Env] {
			t.Errorf("%s stands twice", f.Env)
		}
		seen[f.Env] = true
		if _, ok := retired()[f.Name]; ok {
			t.Errorf("%s is both read and retired", f.Name)
		}
	}
}

func TestRenderingNamesEveryField(t *testing.T) {
	var help strings.Builder
	WriteHelp(&help, build())
	for _, f := range Fields(build()) {
		for what, text := range map[string]string{"help": help.String(), "table": Table(build()), "env file": EnvFile(build())} {
			if !strings.Contains(text, f.Env) {
				t.Errorf("the %s lacks %s", what, f.Env)
			}
		}
	}
	if !strings.Contains(help.String(), "one of auto qemu") {
		t.Error("help does not list the backends of this build")
	}
}

func TestEnvFileIsReadable(t *testing.T) {
	var environ []string
	for line := range strings.Lines(EnvFile(build())) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "#"+Prefix); ok {
			environ = append(environ, Prefix+text)
		}
	}
	got, err := load(nil, environ...)
	if err != nil {
		t.Fatal(err)
	}
	want, err := load(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, secrets); diff != "" {
		t.Errorf("the file with every # removed is not the defaults:\n%s", diff)
	}
}

func TestSecretNeverShows(t *testing.T) {
	s := NewSecret("hunter2")
	text, _ := s.MarshalText()
	shown := fmt.Sprint(s, fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), string(text), struct{ S Secret }{s}, struct{ s Secret }{s})
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s)
	if strings.Contains(shown+log.String(), "hunter2") {
		t.Errorf("the secret shows in %s %s", shown, log.String())
	}
	if s.Reveal() != "hunter2" {
		t.Error("Reveal does not")
	}
}

func TestSuggestionsStandUp(t *testing.T) {
	for name, want := range map[string]string{"statedir": "state-dir", "logs-level": "log-level", "": "", "zzzzzzzz": ""} {
		var names []string
		for _, f := range Fields(build()) {
			names = append(names, f.Name)
		}
		if got := nearest(name, names); got != want {
			t.Errorf("nearest to %q is %q, want %q", name, got, want)
		}
	}
}

func TestRealEnvironmentParses(t *testing.T) {
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, Prefix) {
			t.Skip("this shell sets variables of metald")
		}
	}
	if _, err := load(nil, os.Environ()...); err != nil {
		t.Error(err)
	}
}
