package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
)

// tape is a console that plays what it is fed.
type tape struct {
	feed chan console.Chunk // closed: the VM was deleted
	tail int64
}

func (t *tape) Next(ctx context.Context, follow bool) (console.Chunk, error) {
	if !follow {
		select {
		case c, ok := <-t.feed:
			if ok {
				return c, nil
			}
		default:
		}
		return console.Chunk{}, io.EOF
	}
	select {
	case c, ok := <-t.feed:
		if !ok {
			return console.Chunk{}, io.EOF
		}
		return c, nil
	case <-ctx.Done():
		return console.Chunk{}, ctx.Err()
	}
}

func serveTape(t *testing.T, tp *tape, change func(*Config)) *served {
	return serve(t, func(c *Config) {
		vms := c.VMs
		c.console = func(id types.VMID, tail int64) (chunks, error) {
			if _, err := vms.Get(id); err != nil {
				return nil, err
			}
			tp.tail = tail
			return tp, nil
		}
		if change != nil {
			change(c)
		}
	})
}

func (s *served) stream(t *testing.T, client *http.Client, req *pb.StreamConsoleRequest, options ...connect.ClientOption) *connect.ServerStreamForClient[pb.StreamConsoleResponse] {
	t.Helper()
	stream, err := vmprovisionerv1connect.NewVmServiceClient(client, s.url, options...).StreamConsole(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	return stream
}

func TestAConsoleStreamSaysEverythingAndEnds(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk, 10)}
	s := serveTape(t, tp, nil)
	s.create(t, "a")
	large := bytes.Repeat([]byte("x"), 3*maxConsoleMessage/2)
	for name, options := range map[string][]connect.ClientOption{
		"Connect": nil, "Connect JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
	} {
		tp.feed <- console.Chunk{Offset: 100, Lost: 7, Bytes: []byte("hello\xff\n")}
		tp.feed <- console.Chunk{Offset: 107, Bytes: large}
		stream := s.stream(t, h2cClient(t), &pb.StreamConsoleRequest{VmId: "a", TailBytes: 5}, options...)
		var got []byte
		var lost int64
		for stream.Receive() {
			m := stream.Msg()
			if want := 100 + int64(len(got)); m.GetOffset() != want {
				t.Errorf("%s: offset %d, want %d", name, m.GetOffset(), want)
			}
			got, lost = append(got, m.GetData()...), lost+m.GetLostBytes()
		}
		if err := stream.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if string(got) != "hello\xff\n"+string(large) || lost != 7 {
			t.Errorf("%s: %d bytes, %d lost", name, len(got), lost)
		}
	}
	if tp.tail != 5 {
		t.Errorf("tail %d", tp.tail)
	}
}

func TestAFollowedConsoleGoesOnUntilTheVMIsDeleted(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk)}
	s := serveTape(t, tp, nil)
	s.create(t, "a")
	stream := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: "a", Follow: true})
	for i := range 3 {
		tp.feed <- console.Chunk{Offset: int64(i), Bytes: []byte{'a' + byte(i)}}
		if !stream.Receive() || string(stream.Msg().GetData()) != string('a'+rune(i)) {
			t.Fatalf("%v %v", stream.Msg(), stream.Err())
		}
	}
	close(tp.feed)
	if stream.Receive() || stream.Err() != nil {
		t.Errorf("after the deletion: %v %v", stream.Msg(), stream.Err())
	}
	if tp.tail != -1 {
		t.Errorf("a tail of 0 bytes asks for %d, want all (-1)", tp.tail)
	}
}

func TestAFollowedConsoleOutlivesItsWriteTimeout(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk)}
	s := serveTape(t, tp, func(c *Config) {
		c.timeouts = timeouts{header: time.Second, body: 50 * time.Millisecond, write: 50 * time.Millisecond, idle: time.Minute}
	})
	s.create(t, "a")
	for name, client := range map[string]*http.Client{"HTTP/1.1": http.DefaultClient, "HTTP/2": h2cClient(t)} {
		stream := s.stream(t, client, &pb.StreamConsoleRequest{VmId: "a", Follow: true})
		for range 3 {
			select {
			case tp.feed <- console.Chunk{Bytes: []byte("tick")}:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the stream is gone", name)
			}
			if !stream.Receive() {
				t.Fatalf("%s: %v", name, stream.Err())
			}
			<-time.After(3 * s.cfg.timeouts.write) // the silence that the test is about
		}
		stream.Close()
	}
}

func TestAClientThatDoesNotReadLosesItsStream(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk)}
	s := serveTape(t, tp, func(c *Config) {
		c.timeouts = defaultTimeouts()
		c.timeouts.write = 100 * time.Millisecond
		c.MaxConsoleStreams = 1
	})
	s.create(t, "a")
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := "\x00\x00\x00\x00\x1b" + `{"vm_id":"a","follow":true}`
	if _, err := io.WriteString(conn, "POST "+servicePrefix+"StreamConsole HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/connect+json\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for {
			select {
			case tp.feed <- console.Chunk{Bytes: make([]byte, 1<<20)}:
			case <-stop:
				return
			}
		}
	}()
	eventually(t, "the stream that nobody reads is given up", func() bool { return strings.Contains(s.log.String(), "StreamConsole") })
	close(stop)
	<-fed
	tp.feed = make(chan console.Chunk)
	stream := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: "a"}) // the only slot is free again
	for stream.Receive() {
	}
	if err := stream.Err(); err != nil {
		t.Error(err)
	}
}

func TestConsoleStreamsAreBounded(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk)}
	s := serveTape(t, tp, func(c *Config) { c.MaxConsoleStreams = 2 })
	s.create(t, "a")
	client := h2cClient(t)
	var first *connect.ServerStreamForClient[pb.StreamConsoleResponse]
	for range 2 {
		first = s.stream(t, client, &pb.StreamConsoleRequest{VmId: "a", Follow: true})
		tp.feed <- console.Chunk{Bytes: []byte("x")}
	}
	refused := s.stream(t, client, &pb.StreamConsoleRequest{VmId: "a", Follow: true})
	if refused.Receive() || connect.CodeOf(refused.Err()) != connect.CodeResourceExhausted {
		t.Errorf("the third of two: %v", refused.Err())
	}
	first.Close()
	eventually(t, "a slot is free again", func() bool {
		again := s.stream(t, client, &pb.StreamConsoleRequest{VmId: "a"})
		for again.Receive() {
		}
		return again.Err() == nil
	})
}

func TestAConsoleThatIsNotKept(t *testing.T) {
	s := serve(t, nil)
	for id, block := range map[string]string{"off": `{}`, "discarded": `{"enabled":true,"output":"none"}`} {
		s.must(t, "CreateVm", fmt.Sprintf(`{"vm_id":%q,"config":{"cpu":{"vcpu_count":1},"memory":{"size_bytes":134217728},`+
			`"boot":{"kernel_path":"/opt/vm-assets/vmlinux"},"console":%s}}`, id, block))
		// Without an error a follower would wait for nothing until the VM is deleted.
		stream := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: id, Follow: true})
		if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeFailedPrecondition || !strings.Contains(stream.Err().Error(), "config.console") {
			t.Errorf("%s: %v", id, stream.Err())
		}
	}
}

func TestConsoleStreamsAreCheckedAndEndWithMetald(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk)}
	s := serveTape(t, tp, nil)
	s.create(t, "a")
	for id, want := range map[string]connect.Code{"": connect.CodeInvalidArgument, "../x": connect.CodeInvalidArgument, "none": connect.CodeNotFound} {
		stream := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: id})
		if stream.Receive() || connect.CodeOf(stream.Err()) != want {
			t.Errorf("%q: %v", id, stream.Err())
		}
	}
	negative := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: "a", TailBytes: -1})
	if negative.Receive() || violated(t, negative.Err()) != "tail_bytes" {
		t.Errorf("a negative tail: %v", negative.Err())
	}

	stream := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: "a", Follow: true})
	tp.feed <- console.Chunk{Bytes: []byte("x")}
	var ended atomic.Bool
	go func() {
		_ = s.stop()
		ended.Store(true)
	}()
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
		t.Errorf("metald stopped: %v", stream.Err())
	}
	eventually(t, "Run returned", ended.Load)
}

func TestTheConsoleOfAVM(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "a")
	log, err := console.Open(t.TempDir(), 8<<10)
	if err != nil {
		t.Fatal(err)
	}
	s.vms.logs = map[types.VMID]*console.Log{"a": log}
	write := func(text string) {
		if _, err := io.WriteString(log, text); err != nil {
			t.Fatal(err)
		}
	}
	all := func(req *pb.StreamConsoleRequest) (text string, lost int64) {
		stream := s.stream(t, http.DefaultClient, req)
		for stream.Receive() {
			text += string(stream.Msg().GetData())
			lost += stream.Msg().GetLostBytes()
		}
		if err := stream.Err(); err != nil {
			t.Error(err)
		}
		return text, lost
	}
	if text, _ := all(&pb.StreamConsoleRequest{VmId: "a"}); text != "" {
		t.Errorf("a guest that said nothing: %q", text)
	}
	write("one two three")
	if text, _ := all(&pb.StreamConsoleRequest{VmId: "a"}); text != "one two three" {
		t.Errorf("all: %q", text)
	}
	if text, _ := all(&pb.StreamConsoleRequest{VmId: "a", TailBytes: 5}); text != "three" {
		t.Errorf("the last five bytes: %q", text)
	}
	stream := s.stream(t, http.DefaultClient, &pb.StreamConsoleRequest{VmId: "a", Follow: true, TailBytes: 1})
	if !stream.Receive() || string(stream.Msg().GetData()) != "e" || stream.Msg().GetOffset() != 12 {
		t.Fatalf("%v %v", stream.Msg(), stream.Err())
	}
	write("!")
	if !stream.Receive() || string(stream.Msg().GetData()) != "!" {
		t.Fatalf("%v %v", stream.Msg(), stream.Err())
	}
	if err := log.Close(); err != nil { // as the manager does when the VM is deleted
		t.Fatal(err)
	}
	if stream.Receive() || stream.Err() != nil {
		t.Errorf("after the deletion: %v %v", stream.Msg(), stream.Err())
	}
}

func TestAClientThatStopsReadingAnHTTP2StreamLosesIt(t *testing.T) {
	tp := &tape{feed: make(chan console.Chunk)}
	s := serveTape(t, tp, func(c *Config) {
		c.timeouts = defaultTimeouts()
		c.timeouts.write = 100 * time.Millisecond
	})
	s.create(t, "a")
	plain := connect.WithAcceptCompression("gzip", nil, nil)                                      // or gigabytes of zeros fit into the window of the client
	stream := s.stream(t, h2cClient(t), &pb.StreamConsoleRequest{VmId: "a", Follow: true}, plain) // and never Receive
	stop, fed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(fed)
		for {
			select {
			case tp.feed <- console.Chunk{Bytes: make([]byte, 1<<20)}:
			case <-stop:
				return
			}
		}
	}()
	eventually(t, "the stream that nobody reads is given up", func() bool { return strings.Contains(s.log.String(), "StreamConsole") })
	close(stop)
	<-fed
	s.must(t, "GetVmInfo", `{"vm_id":"a"}`)
	stream.Close()
}
