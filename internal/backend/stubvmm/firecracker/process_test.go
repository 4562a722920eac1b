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
