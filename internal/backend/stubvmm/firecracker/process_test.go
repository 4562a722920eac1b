package firecracker_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// each runs a test of a behaviour with the stand-in, and with the real Firecracker if METALD_TEST_FIRECRACKER names it.
func each(t *testing.T, test func(t *testing.T, exe string)) {
	t.Run("stub", func(t *testing.T) { test(t, binary(t)) })
	t.Run("real", func(t *testing.T) {
		real := os.Getenv("METALD_TEST_FIRECRACKER")
		if real == "" {
			t.Skip("no METALD_TEST_FIRECRACKER: the path of Firecracker 1.16.1 is not given")
		}
		test(t, real)
	})
}

// wait waits for the end and says how it came: the code, or the signal.
func (p *process) wait(t testing.TB) (code int, by syscall.Signal) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			return -1, status.Signal()
		}
		return status.ExitStatus(), 0
	case <-time.After(patience):
		t.Fatalf("it goes on after %s", patience)
		return 0, 0
	}
}

var stamp = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} `)

// said is what is on standard output, without the times.
func (p *process) said(t testing.TB) string {
	t.Helper()
	out, err := os.ReadFile(p.out)
	must(t, err)
	return stamp.ReplaceAllString(string(out), "")
}

// TestCommandLine is behaviours 30 and 33: what a command line comes to that starts no API.
func TestCommandLine(t *testing.T) {
	const leave = "[anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n"
	tests := map[string]struct {
		args     []string
		code     int
		by       syscall.Signal
		out, err string
	}{
		"version":          {[]string{"--version"}, 0, 0, "Firecracker v1.16.1\n\n" + leave, ""},
		"snapshot version": {[]string{"--snapshot-version"}, 0, 0, "v10.0.0\n" + leave, ""},
		"unknown": {[]string{"--colour", "red"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: Found argument 'colour' which wasn't expected, or isn't valid in this context. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(UnexpectedArgument("colour"))` + "\n"},
		"without hyphens": {[]string{"colour"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: Found argument 'colour' which wasn't expected, or isn't valid in this context. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(UnexpectedArgument("colour"))` + "\n"},
		"repeated": {[]string{"--id", "a", "--id", "b"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: The argument 'id' was provided more than once. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(DuplicateArgument("id"))` + "\n"},
		"no value": {[]string{"--id"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: The argument 'id' requires a value, but none was supplied. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(MissingValue("id"))` + "\n"},
		"no api without a file": {[]string{"--no-api"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: Argument 'config-file' required, but not found. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(MissingArgument("config-file"))` + "\n"},
		"bad level": {[]string{"--level", "loud"}, 152, 0,
			"[anonymous-instance:main] Invalid value for logger level: Failed to parse string to level filter: loud.Possible values: [Error, Warning, Info, Debug]\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=152\n",
			`Error: InvalidLogLevel(LevelFilterFromStrError("loud"))` + "\n"},
		"bad id":  {[]string{"--id", "a_b"}, -1, syscall.SIGABRT, "*", ""},
		"long id": {[]string{"--id", strings.Repeat("a", 65)}, -1, syscall.SIGABRT, "*", ""},
		"no log": {[]string{"--log-path", "/none/log"}, 1, 0,
			"[anonymous-instance:main] Could not initialize logger: Failed to open target file: No such file or directory (os error 2)\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=1\n",
			`Error: LoggerInitialization(LoggerUpdateError(Os { code: 2, kind: NotFound, message: "No such file or directory" }))` + "\n"},
		"no metrics": {[]string{"--metrics-path", "/none/m"}, 1, 0,
			"[anonymous-instance:main] Running Firecracker v1.16.1\n" +
				"[anonymous-instance:main] Could not initialize metrics: Cannot initialize the metrics system due to bad user input: No such file or directory (os error 2)\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=1\n",
			`Error: MetricsInitialization(InitializationFailure("No such file or directory (os error 2)"))` + "\n"},
	}
	each(t, func(t *testing.T, exe string) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				p := launch(t, exe, dirFor(t), tt.args...)
				code, by := p.wait(t)
				if code != tt.code || by != tt.by {
					t.Errorf("code %d, signal %v; want %d, %v", code, by, tt.code, tt.by)
				}
				if diff := cmp.Diff(tt.out, p.said(t)); diff != "" && tt.out != "*" {
					t.Errorf("standard output (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.err, p.err.String()); diff != "" {
					t.Errorf("standard error (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// TestSocketThatCannotBeMade is behaviour 30.
func TestSocketThatCannotBeMade(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		dir := dirFor(t)
		first := startIn(t, exe, dir)
		second := launch(t, exe, dir)
		if code, by := second.wait(t); code != 1 || by != 0 {
			t.Errorf("code %d, signal %v", code, by)
		}
		want := `Error: RunWithApi(FailedToBindSocket("` + first.socket + `"))` + "\n"
		if diff := cmp.Diff(want, second.err.String()); diff != "" {
			t.Errorf("standard error (-want +got):\n%s", diff)
		}
		if !strings.Contains(second.said(t), "RunWithApiError error: Failed to open the API socket at: "+first.socket+". Check that it is not already used.") {
			t.Errorf("standard output: %s", second.said(t))
		}
		must(t, first.cmd.Process.Kill())
		first.wait(t)
		if _, err := os.Stat(first.socket); err != nil {
			t.Errorf("the socket does not outlive Firecracker: %v", err)
		}
		third := launch(t, exe, dir)
		if code, _ := third.wait(t); code != 1 {
			t.Errorf("with the socket of one that is gone: code %d", code)
		}
	})
}

func TestNoDirectoryForTheSocket(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		dir := dirFor(t)
		cmd := exec.Command(exe, "--api-sock", filepath.Join(dir, "none", "api"))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("it ends with %v", err)
		}
		const want = `Error: RunWithApi(FailedToBindAndRunHttpServer(IOError(Os { code: 2, kind: NotFound, message: "No such file or directory" })))` + "\n"
		if stderr.String() != want {
			t.Errorf("%swant %s", stderr.String(), want)
		}
	})
}

// TestSignals is behaviour 31, and what of 24 is about signals.
func TestSignals(t *testing.T) {
	tests := map[string]struct {
		signal syscall.Signal
		code   int
		lines  int // of metrics
	}{
		"HUP":  {syscall.SIGHUP, 156, 2},
		"XFSZ": {syscall.SIGXFSZ, 151, 2},
		"XCPU": {syscall.SIGXCPU, 154, 2},
		"ILL":  {syscall.SIGILL, 157, 2},
		"BUS":  {syscall.SIGBUS, 149, 2},
		"SEGV": {syscall.SIGSEGV, 150, 2},
		"TERM": {syscall.SIGTERM, -1, 1},
		"INT":  {syscall.SIGINT, -1, 1},
		"KILL": {syscall.SIGKILL, -1, 1},
		"QUIT": {syscall.SIGQUIT, -1, 1},
	}
	each(t, func(t *testing.T, exe string) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				p := running(t, exe, "")
				must(t, p.cmd.Process.Signal(tt.signal))
				code, by := p.wait(t)
				if code != tt.code || code < 0 && by != tt.signal {
					t.Errorf("code %d, signal %v", code, by)
				}
				if lines := p.metrics(t); len(lines) != tt.lines {
					t.Errorf("%d lines of metrics, want %d", len(lines), tt.lines)
				}
			})
		}
	})
}

// TestBrokenPipeIsCounted is the rest of behaviour 31.
func TestBrokenPipeIsCounted(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := running(t, exe, "")
		must(t, p.cmd.Process.Signal(syscall.SIGPIPE))
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			p.post(t, `PUT /actions {"action_type":"FlushMetrics"}`, "204")
			lines := p.metrics(t)
			if n := lines[len(lines)-1].number(t, "signals", "sigpipe"); n == 1 {
				return
			}
			if time.Now().After(end) {
				t.Fatal("the signal is not counted")
			}
		}
	})
}

// TestLog: two lines for each request from Info on, and none at Warning.
func TestLog(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe, "--id", "a-1", "--show-level")
		p.post(t, "GET /version", "200")
		p.post(t, `PUT /entropy {"x":"y"}`, "400")
		p.post(t, `PATCH /vm {"state":"Paused"}`, "400")
		p.post(t, `PUT /logger {"level":"Warning","log_path":"`+filepath.Dir(p.socket)+`/log"}`, "204")
		p.post(t, "GET /version", "200")
		p.post(t, "DELETE /nothing", "400")
		p.post(t, `PATCH /vm {"state":"Paused"}`, "400")
		dir := filepath.Dir(p.socket)
		want := strings.Join([]string{
			"[a-1:main:INFO] Running Firecracker v1.16.1",
			`[a-1:main:INFO] Listening on API socket ("` + p.socket + `").`,
			"[a-1:fc_api:INFO] API server started.",
			`[a-1:fc_api:INFO] The API server received a Get request on "/version".`,
			"[a-1:fc_api:INFO] The request was executed successfully. Status code: 200 OK.",
			`[a-1:fc_api:INFO] The API server received a Put request on "/entropy" with body "{\"x\":\"y\"}".`,
			"[a-1:fc_api:ERROR] SerdeJson(Error(\"unknown field `x`, expected `rate_limiter`\", line: 1, column: 4))",
			`[a-1:fc_api:INFO] The API server received a Patch request on "/vm" with body "{\"state\":\"Paused\"}".`,
			"[a-1:fc_api:ERROR] Received Error. Status code: 400 Bad Request. Message: The requested operation is not supported before starting the microVM.",
			`[a-1:fc_api:INFO] The API server received a Put request on "/logger" with body "{\"level\":\"Warning\",\"log_path\":\"` + dir + `/log\"}".`, "",
		}, "\n")
		if diff := cmp.Diff(want, p.said(t)); diff != "" {
			t.Errorf("standard output (-want +got):\n%s", diff)
		}
		log, err := os.ReadFile(filepath.Join(dir, "log"))
		must(t, err)
		want = strings.Join([]string{
			`[a-1:fc_api:ERROR] InvalidPathMethod("nothing", Delete)`,
			"[a-1:fc_api:ERROR] Received Error. Status code: 400 Bad Request. Message: The requested operation is not supported before starting the microVM.", "",
		}, "\n")
		if diff := cmp.Diff(want, stamp.ReplaceAllString(string(log), "")); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// TestElevenConnections is behaviour 29.
func TestElevenConnections(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		p.post(t, "GET /version", "200") // the connection of await is gone by now
		var conns []net.Conn
		for range 10 {
			conn, err := net.Dial("unix", p.socket)
			must(t, err)
			defer conn.Close()
			conns = append(conns, conn)
			_, err = conn.Write([]byte("GET /version HTTP/1.1\r\n\r\n"))
			must(t, err)
			must(t, conn.SetReadDeadline(time.Now().Add(patience)))
			_, err = conn.Read(make([]byte, 1024))
			must(t, err)
		}
		conn, err := net.Dial("unix", p.socket)
		must(t, err)
		defer conn.Close()
		const full = `"HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }"`
		if got := p.raw(t, conn, `""`); got != full {
			t.Errorf("the eleventh gets %s", got)
		}
		conns[0].Close()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if got := p.ask(t, "GET /version"); strings.HasPrefix(got, "200") {
				return
			}
			if time.Now().After(end) {
				t.Fatal("nobody is served after one has left")
			}
		}
	})
}

// TestSnapshotThatCannotBeLoaded is behaviour 21.
func TestSnapshotThatCannotBeLoaded(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		p.post(t, `PUT /snapshot/load {"snapshot_path":"/none","mem_backend":{"backend_type":"File","backend_path":"/none"}}`,
			`400 {"fault_message":"Load snapshot error: Failed to restore from snapshot: Failed to get snapshot state from file: Failed to open snapshot file: No such file or directory (os error 2)"}`)
		if code, by := p.wait(t); code != 1 || by != 0 {
			t.Errorf("code %d, signal %v", code, by)
		}
		if want := "Error: RunWithApi(BuildMicroVmError(Restore))\n"; p.err.String() != want {
			t.Errorf("standard error: %s", p.err)
		}
	})
}

// TestVsockSocket is behaviour 34.
func TestVsockSocket(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		dir := filepath.Dir(p.socket)
		p.post(t, `PUT /vsock {"guest_cid":3,"uds_path":"`+dir+`/v"}`, "204")
		first, err := os.Stat(filepath.Join(dir, "v"))
		must(t, err)
		p.post(t, `PUT /vsock {"guest_cid":3,"uds_path":"`+dir+`/v","vsock_id":"a"}`, "204 deprecated")
		second, err := os.Stat(filepath.Join(dir, "v"))
		must(t, err)
		if os.SameFile(first, second) && first.ModTime().Equal(second.ModTime()) {
			t.Error("the socket is the old one")
		}
	})
}

// TestReadOnlyDisk: a disk that cannot be written to is none, if it is not for reading only.
func TestReadOnlyDisk(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		// Root may write to any file but to one of a file system that has no way to.
		p.post(t, `PUT /drives/a {"drive_id":"a","path_on_host":"/sys/kernel/uevent_seqnum","is_root_device":false}`,
			`400 {"fault_message":"Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: Permission denied (os error 13) /sys/kernel/uevent_seqnum"}`)
	})
}
