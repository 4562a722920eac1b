package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// healthy answers as a Cloud Hypervisor whose guest runs.
func healthy(s seen) string {
	switch s.Path {
	case "/api/v1/vmm.ping":
		return reply(200, `{"build_version":"v53.0.0","version":"53.0.0","pid":4711,"features":["io_uring","kvm"]}`)
	case "/api/v1/vm.info":
		return reply(200, `{"config":{"payload":{"kernel":"/k"}},"state":"Running","memory_actual_size":18446744073709551615,"device_tree":{}}`)
	case "/api/v1/vm.counters":
		return reply(200, `{"disk0":{"read_bytes":18446744073709551615,"read_latency_min":18446744073709551615,"write_ops":0},"net0":{"rx_frames":9223372036854775808}}`)
	case "/api/v1/vmm.shutdown":
		return reply(200, "")
	}
	return noContent
}

// verbs are all calls but the translation's, by what they send.
func verbs(c *client) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"GET /api/v1/vmm.ping":        func(ctx context.Context) error { _, err := c.ping(ctx); return err },
		"GET /api/v1/vm.info":         func(ctx context.Context) error { _, err := c.info(ctx); return err },
		"GET /api/v1/vm.counters":     func(ctx context.Context) error { _, err := c.counters(ctx); return err },
		"PUT /api/v1/vm.boot":         c.boot,
		"PUT /api/v1/vm.pause":        c.pause,
		"PUT /api/v1/vm.resume":       c.resume,
		"PUT /api/v1/vm.power-button": c.powerButton,
		"PUT /api/v1/vm.shutdown":     c.shutdown,
		"PUT /api/v1/vm.delete":       c.deleteVM,
		"PUT /api/v1/vmm.shutdown":    c.shutdownVMM,
	}
}

func TestVerbsSendWhatCloudHypervisorTakes(t *testing.T) {
	for want := range verbs(newClient(nil)) {
		a := serve(t, healthy)
		must(t, verbs(a.client())[want](patient(t)))
		got := a.got()
		if len(got) != 1 || got[0].Method+" "+got[0].Path != want || got[0].Body != "" || got[0].Length != 0 {
			t.Errorf("%s sent %+v", want, got)
		}
	}
}

func TestReadsWhatCloudHypervisorTells(t *testing.T) {
	c, ctx := serve(t, healthy).client(), patient(t)
	p, err := c.ping(ctx)
	must(t, err)
	if diff := cmp.Diff(pong{"v53.0.0", "53.0.0", 4711, []string{"io_uring", "kvm"}}, p); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	i, err := c.info(ctx)
	must(t, err)
	if i.State != stateRunning || i.MemoryActualSize != math.MaxUint64 {
		t.Errorf("info %+v", i)
	}
	n, err := c.counters(ctx)
	must(t, err)
	want := counters{
		"disk0": {"read_bytes": math.MaxUint64, "read_latency_min": math.MaxUint64, "write_ops": 0}, "net0": {"rx_frames": 1 << 63},
	}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOneConnectionServesAllCalls(t *testing.T) {
	a := serve(t, healthy)
	c, ctx := a.client(), patient(t)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 10 {
				if _, err := c.info(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	if n := a.connections(); n != 1 {
		t.Errorf("%d connections for 80 calls, want 1", n)
	}
}

// A refusal keeps what was said, the cause last, and its status for people: the same is 500 in one version and 404 in
// the next.
func TestRefusals(t *testing.T) {
	boot := func(status int, reasons ...string) fault { return fault{"PUT /vm.boot", status, reasons} }
	long := strings.Repeat("é", maxFault)
	for name, c := range map[string]struct {
		answer, cause string
		want          fault
	}{
		"chain in 52":   {faulty(500, "Error from API", "The VM could not boot", "VM is not created"), "VM is not created", boot(500, "Error from API", "The VM could not boot", "VM is not created")},
		"chain in 53":   {faulty(404, "Error from API", "VM is not created"), "VM is not created", boot(404, "Error from API", "VM is not created")},
		"one":           {faulty(400, "Bad Request"), "Bad Request", boot(400, "Bad Request")},
		"plain string":  {reply(500, `"VM is not running"`), "VM is not running", boot(500, "VM is not running")},
		"plain text":    {reply(500, "no\x1b[31m\nway"), "no [31m way", boot(500, "no [31m way")},
		"nothing":       {reply(400, ""), "", boot(400)},
		"empty chain":   {reply(400, "[]"), "", boot(400)},
		"other JSON":    {reply(400, `{"error":7}`), `{"error":7}`, boot(400, `{"error":7}`)},
		"broken JSON":   {reply(400, `["a",`), `["a",`, boot(400, `["a",`)},
		"numbers":       {reply(400, `[1,2]`), "[1,2]", boot(400, "[1,2]")},
		"null":          {reply(400, `null`), "", boot(400)},
		"200":           {reply(200, "[]"), "", boot(200)},
		"elsewhere":     {"HTTP/1.1 307 \r\nLocation: http://localhost/x\r\nContent-Length: 0\r\n\r\n", "", boot(307)},
		"too many":      {faulty(429, strings.Split("a b c d e f g h i j", " ")...), "j", boot(429, "c", "d", "e", "f", "g", "h", "i", "j")},
		"long complain": {faulty(500, long), long[:maxFault], boot(500, long[:maxFault])},
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, func(seen) string { return c.answer })
			err := a.client().boot(patient(t))
			var got *fault
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want a *fault", err)
			}
			if diff := cmp.Diff(c.want, *got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got.cause() != c.cause {
				t.Errorf("cause %q, want %q", got.cause(), c.cause)
			}
			if n := len(a.got()); n != 1 {
				t.Errorf("%d requests for one call", n)
			}
		})
	}
}

func TestRepliesThatMakeNoSense(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   error
	}{
		"no JSON":         {reply(200, "hello"), errReply},
		"nothing":         {reply(200, ""), errReply},
		"another type":    {reply(200, `{"state":7}`), errReply},
		"unknown state":   {reply(200, `{"state":"Dreaming"}`), errReply},
		"no state":        {reply(200, `{}`), errReply},
		"negative memory": {reply(200, `{"state":"Running","memory_actual_size":-1}`), errReply},
		"too much memory": {reply(200, `{"state":"Running","memory_actual_size":18446744073709551616}`), errReply},
		"endless":         {reply(200, `{"state":"Running"}`+strings.Repeat(" ", maxReply)), errReply},
		"deep":            {reply(200, `{"state":"Running","config":`+strings.Repeat("[", 100_000)), errReply},
		"half a body":     {half + "\r\n{", errClosed},
		"half a header":   {half, errClosed},
		"no HTTP":         {"SSH-2.0-x\r\n", errClosed},
		"endless header":  {"HTTP/1.1 200 \r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", errClosed},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(seen) string { return c.answer }).client()
			if info, err := client.info(patient(t)); !errors.Is(err, c.want) || info.State != "" {
				t.Errorf("%+v, error %v, want nothing and %v", info, err, c.want)
			}
		})
	}
}

func TestCountersThatAreNone(t *testing.T) {
	for _, body := range []string{`{"a":{"b":-1}}`, `{"a":{"b":1.5}}`, `{"a":{"b":"1"}}`, `{"a":[1]}`, `[]`, `{"a":{"b":18446744073709551616}}`} {
		c := serve(t, func(seen) string { return reply(200, body) }).client()
		if n, err := c.counters(patient(t)); !errors.Is(err, errReply) || n != nil {
			t.Errorf("%s became %v, %v", body, n, err)
		}
	}
}

func TestSilenceEndsWithTheLimit(t *testing.T) {
	c := serve(t, func(seen) string { return "" }).client()
	c.limit, c.slowLimit = 40*time.Millisecond, 50*time.Millisecond
	began := time.Now()
	for want, verb := range map[string]func(context.Context) error{
		"PUT /vm.power-button: no answer from Cloud Hypervisor within 40ms": c.powerButton,
		"PUT /vm.boot: no answer from Cloud Hypervisor within 50ms":         c.boot,
		"PUT /vm.add-net: no answer from Cloud Hypervisor within 40ms":      func(ctx context.Context) error { return c.addNet(ctx, netConfig{}, os.Stdin) },
	} {
		if err := verb(patient(t)); !errors.Is(err, errMute) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %s", took)
	}
}

func TestSilenceEndsWithTheCaller(t *testing.T) {
	enough := errors.New("enough")
	for name, verb := range map[string]func(context.Context, *client) error{
		"pause":   func(ctx context.Context, c *client) error { return c.pause(ctx) },
		"add-net": func(ctx context.Context, c *client) error { return c.addNet(ctx, netConfig{}, os.Stdin) },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		c := serve(t, func(seen) string { cancel(enough); return "" }).client()
		if err := verb(ctx, c); !errors.Is(err, errMute) || !errors.Is(err, enough) {
			t.Errorf("%s: error %v, want errMute and the caller's cause", name, err)
		}
	}
}

// A call that was given up does not spoil the next.
func TestWorksAgainAfterSilence(t *testing.T) {
	var mu sync.Mutex
	answer := ""
	c := serve(t, func(seen) string { mu.Lock(); defer mu.Unlock(); return answer }).client()
	c.slowLimit = 50 * time.Millisecond
	if err := c.pause(patient(t)); !errors.Is(err, errMute) {
		t.Fatalf("error %v", err)
	}
	mu.Lock()
	answer = noContent
	mu.Unlock()
	c.slowLimit = patience
	must(t, c.pause(patient(t)))
}

func TestNobodyListens(t *testing.T) {
	c := newClient(socketIn(t.TempDir()))
	for _, verb := range []func(context.Context) error{c.boot, func(ctx context.Context) error { return c.addNet(ctx, netConfig{}) }} {
		if err := verb(patient(t)); !errors.Is(err, errClosed) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v, want errClosed and that there is no socket", err)
		}
	}
}

// The longest path that a VM may have is longer than a socket address.
func TestLongPath(t *testing.T) {
	a := serve(t, healthy)
	dir := filepath.Join(a.dir, strings.Repeat("d", 120))
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Rename(filepath.Join(a.dir, socketName), filepath.Join(dir, socketName)))
	c := newClient(socketIn(dir))
	defer c.close()
	must(t, c.boot(patient(t)))
}

func TestTooLongRequestsAreNotSent(t *testing.T) {
	a := serve(t, healthy)
	err := a.client().create(patient(t), vmConfig{Payload: payloadConfig{Cmdline: strings.Repeat("x", maxRequest)}})
	if !errors.Is(err, errTooLong) || len(a.got()) != 0 {
		t.Errorf("error %v after %d requests", err, len(a.got()))
	}
}

// taker takes one request with the open files that come with it, as the server does: any bytes may bring them.
func taker(t *testing.T, answer string) (*client, <-chan []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unix"})
	must(t, err)
	names := make(chan []string, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		names <- namesOfFiles(conn)
		io.WriteString(conn, answer)
	})
	t.Cleanup(func() { l.Close(); serving.Wait(); os.RemoveAll(dir) })
	c := newClient(socketIn(dir))
	c.limit = patience
	return c, names
}

// namesOfFiles reads a request in small pieces and says what it has: its text, and then where the files lead.
func namesOfFiles(conn *net.UnixConn) []string {
	var text string
	var names []string
	for !strings.HasSuffix(text, "}") {
		buf, control := make([]byte, 64), make([]byte, 1024)
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, control)
		if err != nil {
			return []string{err.Error()}
		}
		text += string(buf[:n])
		messages, _ := unix.ParseSocketControlMessage(control[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
				unix.Close(fd)
				names = append(names, name)
			}
		}
	}
	return append([]string{text}, names...)
}

func TestTapsAreSentAsOpenFiles(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	for name, answer := range map[string]string{"before the boot": noContent, "after it": reply(200, `{"id":"net0","bdf":"0000:00:03.0"}`)} {
		t.Run(name, func(t *testing.T) {
			var files []*os.File
			for _, path := range []string{one, two} {
				f, err := os.Create(path)
				must(t, err)
				defer f.Close()
				files = append(files, f)
			}
			c, got := taker(t, answer)
			must(t, c.addNet(patient(t), netConfig{ID: "net0", Tap: "tap0", MAC: "02:00:00:00:00:01"}.overFiles(), files...))
			want := []string{"PUT /api/v1/vm.add-net HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n" +
				`{"id":"net0","mac":"02:00:00:00:00:01"}`, one, two}
			if diff := cmp.Diff(want, <-got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if _, err := files[0].Write([]byte("x")); err != nil {
				t.Errorf("the file is the caller's no more: %v", err)
			}
		})
	}
}

func TestARefusedTapIsSaid(t *testing.T) {
	c, _ := taker(t, faulty(500, "Error from API", "Identifier is not unique: net0"))
	var refused *fault
	if err := c.addNet(patient(t), netConfig{ID: "net0"}); !errors.As(err, &refused) || refused.cause() != "Identifier is not unique: net0" {
		t.Errorf("error %v", err)
	}
}

// A VMM that its guest took over may answer without an end, and is not read without an end.
func TestFloods(t *testing.T) {
	for name, c := range map[string]struct{ begin, more string }{
		"a header":  {"HTTP/1.1 204 \r\nX: ", "xxxxxxxx"},
		"a body":    {"HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", "xxxxxxxx"},
		"a refusal": {"HTTP/1.1 500 \r\nContent-Length: 99999999999\r\n\r\n", "xxxxxxxx"},
		"headers":   {"HTTP/1.1 204 \r\n", "X: y\r\n"},
		"interim":   {"HTTP/1.1 100 \r\n\r\n", "HTTP/1.1 100 \r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(flood(t, c.begin, c.more))
			defer client.close()
			client.limit, client.slowLimit = patience, patience
			for verb, call := range map[string]func(context.Context) error{
				"boot": client.boot, "add-net": func(ctx context.Context) error { return client.addNet(ctx, netConfig{}) },
			} {
				err := call(patient(t))
				var refused *fault // a reply that is interim is none to wait behind
				if !errors.Is(err, errClosed) && !errors.Is(err, errReply) && !errors.As(err, &refused) {
					t.Errorf("%s: error %v", verb, err)
				}
			}
		})
	}
}

// flood dials a server that begins each answer as given, and then never stops.
func flood(t *testing.T, begin, more string) func(context.Context) (net.Conn, error) {
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	must(t, err)
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				conn.Read(make([]byte, 1<<16))
				more := []byte(strings.Repeat(more, 1000))
				for _, err := io.WriteString(conn, begin); err == nil; _, err = conn.Write(more) {
				}
			})
		}
	})
	return socketIn(dir)
}

func TestVersions(t *testing.T) {
	inOrder := []string{"0.15.0", "cloud-hypervisor v51.1.0\n", "v52.0", "52.1.0", "v53.0.0", "53.0.1", "v53.1-12-gae44c29", "54.0.0"}
	for i := 1; i < len(inOrder); i++ {
		older, err := parseVersion(inOrder[i-1])
		must(t, err)
		newer, err := parseVersion(inOrder[i])
		must(t, err)
		if !older.before(newer) || newer.before(older) || newer.before(newer) {
			t.Errorf("%s and %s are in the wrong order", older, newer)
		}
	}
	for _, bad := range []string{"", "53", "53.x", "cloud-hypervisor", "cloud-hypervisor one", "53.0.0 53", "99999999999999999999.0.0", "53.0.0.0"} {
		if v, err := parseVersion(bad); err == nil {
			t.Errorf("%q is version %s", bad, v)
		}
	}
}

func TestUnsafeVersionsAreRefused(t *testing.T) {
	for s, ok := range map[string]bool{
		"50.0.0": false, "51.1.0": false, "51.99.0": false, "v52.0": true, "52.0.0": true, "53.0.0": true, "v53.0-12-gae44c29": true, "54.0.0": true,
	} {
		v, err := parseVersion(s)
		must(t, err)
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
}
