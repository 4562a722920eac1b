package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const testGreeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}` + "\r\n"

// pair returns both ends of a unix connection.
func pair(t testing.TB) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		must(t, err)
		f.Close()
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

// peer is a QMP server that a test writes out by hand.
type peer struct {
	t    testing.TB
	conn *net.UnixConn
	in   *json.Decoder
}

func (p *peer) say(format string, args ...any) {
	p.t.Helper()
	_, err := fmt.Fprintf(p.conn, format, args...)
	must(p.t, err)
}

// hear returns the next command.
func (p *peer) hear() command {
	p.t.Helper()
	var c command
	must(p.t, p.in.Decode(&c))
	return c
}

// connected returns a client that has negotiated, and its peer. read runs until the test ends.
func connected(t *testing.T, onEvent func(string, []byte)) (*client, *peer) {
	t.Helper()
	ours, theirs := pair(t)
	p := &peer{t: t, conn: theirs, in: json.NewDecoder(theirs)}
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		p.say(testGreeting)
		if c := p.hear(); c.Execute != "qmp_capabilities" {
			t.Errorf("the first command is %s", c.Execute)
		}
		p.say("{\"return\": {}, \"id\": 1}\r\n")
	}()
	c, err := greet(t.Context(), ours, onEvent)
	must(t, err)
	<-greeted
	if c.version != "7.2.22" {
		t.Errorf("version %q", c.version)
	}
	var reading sync.WaitGroup
	reading.Go(func() { _ = c.read() })
	t.Cleanup(func() {
		c.close()
		reading.Wait()
		goleak.VerifyNone(t, goleak.IgnoreCurrent())
	})
	return c, p
}

func TestRepliesFindTheirCommands(t *testing.T) {
	events := make(chan string, 10)
	c, p := connected(t, func(name string, _ []byte) { events <- name })
	answers := make(chan string, 2)
	var asking sync.WaitGroup
	for _, name := range []string{"first", "second"} {
		asking.Go(func() {
			r, err := c.do(t.Context(), name, nil)
			if err != nil {
				t.Error(err)
			}
			answers <- name + " " + string(r)
		})
	}
	a, b := p.hear(), p.hear()
	p.say("{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n")
	p.say("{\"return\": %q, \"id\": %d}\r\n", b.Execute, b.ID)
	p.say("{\"event\": \"RESUME\"}\n\r\n{\"return\": %q, \"id\": %d}\r\n", a.Execute, a.ID)
	asking.Wait()
	got := map[string]bool{<-answers: true, <-answers: true}
	if !got[`first "first"`] || !got[`second "second"`] {
		t.Errorf("answers: %v", got)
	}
	if a, b := <-events, <-events; a != "STOP" || b != "RESUME" {
		t.Errorf("events %s, %s", a, b)
	}
}

func TestRefusedCommand(t *testing.T) {
	c, p := connected(t, nil)
	go func() {
		q := p.hear()
		p.say("{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command x has not been found\"}, \"id\": %d}\r\n", q.ID)
	}()
	_, err := c.do(t.Context(), "x", nil)
	var refused *CommandError
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" {
		t.Errorf("error %v", err)
	}
}

func TestLateReplyIsNobodys(t *testing.T) {
	c, p := connected(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.do(ctx, "slow", nil); !errors.Is(err, errMute) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	slow := p.hear()
	go func() {
		next := p.hear()
		p.say("{\"return\": \"late\", \"id\": %d}\r\n{\"return\": \"new\", \"id\": %d}\r\n", slow.ID, next.ID)
	}()
	r, err := c.do(t.Context(), "next", nil)
	if err != nil || string(r) != `"new"` {
		t.Errorf("reply %s, %v", r, err)
	}
}

func TestAMuteQEMUIsNotAskedForEver(t *testing.T) {
	c, p := connected(t, nil)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for range maxUnanswered {
		if _, err := c.do(canceled, "query-status", nil); !errors.Is(err, errMute) {
			t.Fatalf("error %v", err)
		}
	}
	if _, err := c.do(t.Context(), "query-status", nil); !errors.Is(err, errMute) {
		t.Fatalf("one question too many: %v", err)
	}
	// It wakes up: all is answered, and it can be asked again.
	for range maxUnanswered {
		p.say("{\"return\": {}, \"id\": %d}\r\n", p.hear().ID)
	}
	go func() { p.say("{\"return\": {}, \"id\": %d}\r\n", p.hear().ID) }()
	eventually(t, "it may be asked", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.unanswered == 0
	})
	if _, err := c.do(t.Context(), "query-status", nil); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfTheConnection(t *testing.T) {
	for name, last := range map[string]string{
		"nothing":      "",
		"garbage":      "HTTP/1.1 400 Bad Request\r\n\r\n",
		"half a reply": `{"return": {"sta`,
		"no message":   "{}\r\n",
		"wrong type":   "{\"return\": {}, \"id\": \"one\"}\r\n",
		"an array":     "[1]\r\n",
		"too long":     strings.Repeat(" ", maxMessage+1024),
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connected(t, nil)
			go func() {
				p.hear()
				io.WriteString(p.conn, last) // it may be cut off by the client
				p.conn.Close()
			}()
			if _, err := c.do(t.Context(), "query-status", nil); !errors.Is(err, errClosed) {
				t.Errorf("error %v", err)
			}
			if _, err := c.do(t.Context(), "query-status", nil); !errors.Is(err, errClosed) {
				t.Errorf("error afterwards %v", err)
			}
		})
	}
}

func TestLongReply(t *testing.T) {
	c, p := connected(t, nil)
	long := strings.Repeat("x", 100_000)
	go func() { p.say("{\"return\": %q, \"id\": %d}\r\n", long, p.hear().ID) }()
	r, err := c.do(t.Context(), "query-qmp-schema", nil)
	if err != nil || len(r) != len(long)+2 {
		t.Errorf("%d bytes, %v", len(r), err)
	}
}

func TestNoGreeting(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"silence":      {"", errMute},
		"garbage":      {"SSH-2.0-OpenSSH\r\n", errNotQMP},
		"no greeting":  {"{\"return\": {}}\r\n", errNotQMP},
		"half of it":   {testGreeting[:40], errMute},
		"only that":    {testGreeting, errMute},
		"refused":      {testGreeting + "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}, \"id\": 1}\r\n", &CommandError{}},
		"not for this": {testGreeting + "{\"return\": {}, \"id\": 7}\r\n", errMute},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			_, err := theirs.Write([]byte(c.text))
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = greet(ctx, ours, nil)
			var refused *CommandError
			if wantRefusal := errors.As(c.want, &refused); wantRefusal && !errors.As(err, &refused) || !wantRefusal && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestAPeerThatCloses(t *testing.T) {
	ours, theirs := pair(t)
	theirs.Close()
	if _, err := greet(t.Context(), ours, nil); !errors.Is(err, errClosed) {
		t.Errorf("error %v", err)
	}
}

// FuzzDecoder: whatever comes, the decoder ends, and what it takes for a message is one.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte(testGreeting))
	f.Add([]byte("{\"return\": {}, \"id\": 1}\r\n{\"event\": \"STOP\"}\r\n"))
	f.Add([]byte("{\"error\": {\"class\": \"GenericError\", \"desc\": \"\"}, \"id\": 18446744073709551615}\n"))
	f.Add([]byte("{\"QMP\": null}\n"))
	f.Add([]byte(strings.Repeat("[", 20000) + "\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		d := newDecoder(bytes.NewReader(input))
		for n := 0; ; n++ {
			m, err := d.next()
			if err != nil {
				if m != nil {
					t.Fatal("a message and an error")
				}
				return
			}
			if m.Greeting == nil && !m.isReply() && m.Event == "" {
				t.Fatal("an empty message")
			}
			if n > len(input) {
				t.Fatal("more messages than bytes")
			}
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	r := onStub(b)
	v := r.create("bench", r.spec())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.State(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
