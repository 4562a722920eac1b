package firecracker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// healthy answers as a Firecracker whose guest runs.
func healthy(s seen) string {
	switch s.Method + " " + s.Path {
	case "GET /":
		return reply(200, `{"id":"web-1","state":"Running","vmm_version":"1.16.1","app_name":"Firecracker"}`)
	}
	return noContent
}

func TestVerbsSendWhatFirecrackerTakes(t *testing.T) {
	a := serve(t, healthy)
	c, ctx := a.client(), patient(t)
	for _, verb := range []func(context.Context) error{c.start, c.pause, c.resume, c.flushMetrics, c.ctrlAltDel} {
		must(t, verb(ctx))
	}
	want := []seen{
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 31},
		{"PATCH", "/vm", `{"state":"Paused"}`, 18},
		{"PATCH", "/vm", `{"state":"Resumed"}`, 19},
		{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, 30},
		{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, 32},
	}
	if diff := cmp.Diff(want, a.got()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReadsWhatFirecrackerTells(t *testing.T) {
	c, ctx := serve(t, healthy).client(), patient(t)
	info, err := c.info(ctx)
	must(t, err)
	if want := (instanceInfo{State: stateRunning, VMMVersion: "1.16.1"}); info != want {
		t.Errorf("info %+v, want %+v", info, want)
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

// It is the API alone that says what a call did: every other status is a refusal.
func TestRefusals(t *testing.T) {
	const parseError = "{ \"error\": \"Invalid HTTP Method\n\" }"
	for name, c := range map[string]struct {
		answer string
		want   fault
	}{
		"fault":         {faulty("Start microvm error: no kernel"), fault{"PUT /actions", 400, "Start microvm error: no kernel"}},
		"broken JSON":   {reply(400, parseError), fault{"PUT /actions", 400, `{ "error": "Invalid HTTP Method " }`}},
		"plain text":    {reply(400, "no\x1b[31m\nway"), fault{"PUT /actions", 400, "no [31m way"}},
		"nothing":       {reply(400, ""), fault{"PUT /actions", 400, ""}},
		"too many":      {reply(503, `{ "error": "Too many open connections" }`), fault{"PUT /actions", 503, `{ "error": "Too many open connections" }`}},
		"200 to a PUT":  {reply(200, "{}"), fault{"PUT /actions", 200, "{}"}},
		"elsewhere":     {"HTTP/1.1 307 \r\nLocation: http://localhost/version\r\nContent-Length: 0\r\n\r\n", fault{"PUT /actions", 307, ""}},
		"long complain": {faulty(strings.Repeat("é", maxFault)), fault{"PUT /actions", 400, strings.Repeat("é", maxFault/2)}},
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, func(seen) string { return c.answer })
			err := a.client().start(patient(t))
			var got *fault
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want a *fault", err)
			}
			if diff := cmp.Diff(c.want, *got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if n := len(a.got()); n != 1 {
				t.Errorf("%d requests for one call", n)
			}
		})
	}
}

func TestWrongMethodAndPathAreRefused(t *testing.T) {
	c, ctx := serve(t, healthy).client(), patient(t)
	for _, cl := range []call{
		{Method: "PATCH", Path: "/actions", Body: []byte("{}")}, {Method: "PUT", Path: "/nowhere", Body: []byte("{}")},
		{Method: "PUT", Path: "/actions"},
	} {
		var refused *fault
		if err := c.send(ctx, cl); !errors.As(err, &refused) || refused.Status != 400 {
			t.Errorf("%s with %q: %v, want a refusal", cl, cl.Body, err)
		}
	}
}

func TestRepliesThatMakeNoSense(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   error
	}{
		"no JSON":        {reply(200, "hello"), errReply},
		"another type":   {reply(200, `{"state":7}`), errReply},
		"unknown state":  {reply(200, `{"state":"Dreaming"}`), errReply},
		"no state":       {reply(200, `{}`), errReply},
		"endless":        {reply(200, `{"state":"Running"}`+strings.Repeat(" ", maxReply)), errReply},
		"half a body":    {half + "\r\n{", errClosed},
		"half a header":  {half, errClosed},
		"no HTTP":        {"SSH-2.0-x\r\n", errClosed},
		"endless header": {"HTTP/1.1 200 \r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", errClosed},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(seen) string { return c.answer }).client()
			if info, err := client.info(patient(t)); !errors.Is(err, c.want) || info != (instanceInfo{}) {
				t.Errorf("%+v, error %v, want nothing and %v", info, err, c.want)
			}
		})
	}
}

func TestSilenceEndsWithTheLimit(t *testing.T) {
	c := serve(t, func(seen) string { return "" }).client()
	c.limit = 50 * time.Millisecond
	began := time.Now()
	err := c.pause(patient(t))
	if !errors.Is(err, errMute) || !strings.Contains(err.Error(), "PATCH /vm: no answer from Firecracker within 50ms") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %s", took)
	}
}

func TestSilenceEndsWithTheCaller(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := serve(t, func(seen) string { cancel(enough); return "" }).client()
	if err := c.pause(ctx); !errors.Is(err, errMute) || !errors.Is(err, enough) {
		t.Errorf("error %v, want errMute and the caller's cause", err)
	}
}

// A call that was given up does not spoil the next.
func TestWorksAgainAfterSilence(t *testing.T) {
	answer := ""
	var mu sync.Mutex
	c := serve(t, func(s seen) string {
		mu.Lock()
		defer mu.Unlock()
		return answer
	}).client()
	c.limit = 50 * time.Millisecond
	if err := c.pause(patient(t)); !errors.Is(err, errMute) {
		t.Fatalf("error %v", err)
	}
	mu.Lock()
	answer = noContent
	mu.Unlock()
	c.limit = patience
	must(t, c.pause(patient(t)))
}

func TestNobodyListens(t *testing.T) {
	dir := t.TempDir()
	c := newClient(socketIn(dir))
	if err := c.start(patient(t)); !errors.Is(err, errClosed) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want errClosed and that there is no socket", err)
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
	must(t, c.start(patient(t)))
}

func TestConfigureStopsAtARefusalAndNamesTheField(t *testing.T) {
	a := serve(t, func(s seen) string {
		if s.Path == "/drives/disk0" {
			return faulty("No such file or directory")
		}
		return noContent
	})
	calls, err := translate(request1(quickStart()), sinks{})
	must(t, err)
	err = a.client().configure(patient(t), calls)
	var e *types.Error
	if !errors.As(err, &e) || e.Kind != types.KindInvalid || e.Field != "config.storage[0].path" {
		t.Errorf("error %#v, want one about the disk", err)
	}
	var refused *fault
	if !errors.As(err, &refused) || refused.Message != "No such file or directory" {
		t.Errorf("error %v does not say what Firecracker said", err)
	}
	if got := a.got(); got[len(got)-1].Path != "/drives/disk0" {
		t.Errorf("the last request is %v", got[len(got)-1])
	}
}

func TestConfigureTellsSilenceFromRefusal(t *testing.T) {
	c := serve(t, func(seen) string { return half }).client()
	calls, err := translate(request1(quickStart()), sinks{})
	must(t, err)
	if err := c.configure(patient(t), calls); types.KindOf(err) != types.KindUnavailable || !errors.Is(err, errClosed) {
		t.Errorf("error %v of kind %d, want KindUnavailable", err, types.KindOf(err))
	}
}

func TestVersions(t *testing.T) {
	inOrder := []string{"0.25.0", "1.13.2", "1.14.0-rc.1", "1.14.0", "v1.16.1", "1.17.0-dev", "1.17.0", "2.0.0"}
	for i := 1; i < len(inOrder); i++ {
		older, err := parseVersion(inOrder[i-1])
		must(t, err)
		newer, err := parseVersion(inOrder[i])
		must(t, err)
		if !older.before(newer) || newer.before(older) || newer.before(newer) {
			t.Errorf("%s and %s are in the wrong order", older, newer)
		}
	}
	for _, bad := range []string{"", "1.16", "1.16.x", "one", "1.16.1\n", "99999999999999999999.0.0"} {
		if v, err := parseVersion(bad); err == nil {
			t.Errorf("%q is version %s", bad, v)
		}
	}
}

func TestUnsafeVersionsAreRefused(t *testing.T) {
	for s, ok := range map[string]bool{
		"0.25.2": false, "1.12.1": false, "1.13.1": false, "1.13.2": false, "1.14.0": false, "1.14.3": false, "1.14.4": true,
		"1.15.0": false, "1.15.1": true, "1.16.1": true, "1.17.0-dev": true,
	} {
		v, err := parseVersion(s)
		must(t, err)
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
}
