package console

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newDrainer returns one whose Run runs until stop or the end of the test.
func newDrainer(t testing.TB) (d *Drainer, stop func()) {
	t.Helper()
	d, err := NewDrainer()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return d, stop
}

// buffer is a writer that tests may look into.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func socketPair(t testing.TB) (ours, guest *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, guest = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "guest")
	t.Cleanup(func() { ours.Close(); guest.Close() })
	return ours, guest
}

func pipe(t testing.TB) (ours, guest *os.File) {
	t.Helper()
	ours, guest, err := os.Pipe() // these are in Go's netpoller, unlike the sockets above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); guest.Close() })
	return ours, guest
}

// terminal returns the two ends of a pseudo-terminal, which QEMU may use for a serial port.
func terminal(t testing.TB) (ours, guest *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { ours.Close() })
	conn, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var failed error
	conn.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	guest, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { guest.Close() })
	return ours, guest
}

func awaitDrained(t testing.TB, s *Source) {
	t.Helper()
	select {
	case <-s.Drained():
	case <-time.After(limit):
		t.Fatal("the end of a console was not seen")
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestDrainsToTheEnd(t *testing.T) {
	d, _ := newDrainer(t)
	for name, open := range map[string]func(testing.TB) (ours, guest *os.File){"socket": socketPair, "pipe": pipe, "terminal": terminal} {
		t.Run(name, func(t *testing.T) {
			ours, guest := open(t)
			before := openFiles(t)
			var got buffer
			s, err := d.Add(ours, &got)
			if err != nil {
				t.Fatal(err)
			}
			if ours.Fd() != ^uintptr(0) {
				t.Error("the file that was handed over is still open")
			}
			io.WriteString(guest, "hello, ")
			io.WriteString(guest, "world")
			guest.Close()
			awaitDrained(t, s)
			if got.String() != "hello, world" {
				t.Errorf("drained %q", got.String())
			}
			if n := openFiles(t); n != before-2 {
				t.Errorf("%d open files, want %d", n, before-2)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close after the end: %v", err)
			}
		})
	}
}

// A VMM that dies with input it has not read resets the connection; what it said before is not lost.
func TestDrainsWhatCameBeforeAReset(t *testing.T) {
	d, _ := newDrainer(t)
	ours, guest := socketPair(t)
	io.WriteString(ours, "input that nobody reads")
	io.WriteString(guest, "last words")
	guest.Close()
	var got buffer
	s, err := d.Add(ours, &got)
	if err != nil {
		t.Fatal(err)
	}
	awaitDrained(t, s)
	if got.String() != "last words" {
		t.Errorf("drained %q", got.String())
	}
}

func TestDrains200AtOnce(t *testing.T) {
	const n, size = 200, 200 << 10
	d, err := NewDrainer()
	if err != nil {
		t.Fatal(err)
	}
	logs, sources := make([]*Log, n), make([]*Source, n)
	guests := make([]*os.File, n)
	for i := range n {
		ours, guest := socketPair(t)
		logs[i], guests[i] = open(t, t.TempDir(), 1<<20), guest
		if sources[i], err = d.Add(ours, logs[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, guest := range guests { // some before Run, as much as a socket holds
		unix.SetNonblock(int(guest.Fd()), true)
		if m, err := unix.Write(int(guest.Fd()), output(int64(i), 1000)); m != 1000 {
			t.Fatal(err)
		}
		unix.SetNonblock(int(guest.Fd()), false)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var wg sync.WaitGroup
	for i, guest := range guests {
		wg.Go(func() {
			if _, err := guest.Write(output(int64(i)+1000, size-1000)); err != nil {
				t.Error(err)
			}
			guest.Close()
		})
	}
	wg.Wait()
	for i, s := range sources {
		awaitDrained(t, s)
		if b, err := logs[i].Tail(size); err != nil || !bytes.Equal(b, output(int64(i), size)) {
			t.Errorf("console %d: %d bytes (%v), want %d of its own", i, len(b), err, size)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A guest that writes without end does not keep another from being heard.
func TestFloodStarvesNobody(t *testing.T) {
	d, _ := newDrainer(t)
	ours, flood := pipe(t)
	var drained atomic.Int64
	s, err := d.Add(ours, counter{&drained})
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for line := output(0, 64<<10); ; {
			if _, err := flood.Write(line); err != nil {
				return // the source was closed
			}
		}
	}()
	ours2, quiet := pipe(t)
	heard := make(chan int64, 1)
	s2, err := d.Add(ours2, writerFunc(func([]byte) { heard <- drained.Load() }))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		for from := drained.Load(); drained.Load() == from; { // the flood is on
			time.Sleep(10 * time.Microsecond)
		}
		before := drained.Load()
		io.WriteString(quiet, "x")
		select {
		case at := <-heard:
			if at-before > 64<<20 {
				t.Errorf("the flood had %d bytes before its neighbour was heard", at-before)
			}
		case <-time.After(limit):
			t.Fatal("the flood drowns its neighbour")
		}
	}
	s.Close()
	s2.Close()
	<-stopped
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// A writer that fails does not stop the draining: the guest would stand still.
func TestAFailingWriterIsDrainedAllTheSame(t *testing.T) {
	d, _ := newDrainer(t)
	ours, guest := pipe(t)
	s, err := d.Add(ours, failing{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(guest, strings.NewReader(strings.Repeat("x", 1<<20))); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	awaitDrained(t, s)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// Close meets the drainer at every moment. After it nothing is written, and no file is left.
func TestCloseWhileDraining(t *testing.T) {
	d, _ := newDrainer(t)
	before := openFiles(t)
	for range 200 {
		ours, guest, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var closed atomic.Bool
		s, err := d.Add(ours, writerFunc(func([]byte) {
			if closed.Load() {
				t.Error("written after Close")
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := guest.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		})
		for range 2 {
			wg.Go(func() {
				s.Close()
				closed.Store(true)
				awaitDrained(t, s)
			})
		}
		wg.Wait()
		guest.Close()
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d open files, were %d", n, before)
	}
	if n := d.poller.Len(); n != 0 {
		t.Errorf("%d sources are still watched", n)
	}
}

func TestRunEndsAndLeavesTheSources(t *testing.T) {
	d, stop := newDrainer(t)
	ours, guest := socketPair(t)
	s, err := d.Add(ours, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := io.WriteString(guest, "x"); err != nil {
		t.Errorf("the console was closed with Run: %v", err)
	}
	select {
	case <-s.Drained():
		t.Error("drained, and nobody drains")
	default:
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	awaitDrained(t, s)
	ours, _ = socketPair(t)
	if _, err := d.Add(ours, io.Discard); err == nil {
		t.Error("Add after Run went well, and nobody drains")
	}
	if ours.Fd() != ^uintptr(0) {
		t.Error("the file of a failed Add is still open")
	}
}

func TestAddOfWhatCannotBeDrained(t *testing.T) {
	d, _ := newDrainer(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Add(f, io.Discard); err == nil || !strings.Contains(err.Error(), f.Name()) {
		t.Errorf("error %v, want one that names the file", err)
	}
	if _, err := d.Add(f, io.Discard); err == nil {
		t.Error("a closed file was added")
	}
}

// BenchmarkDrain compares with a goroutine that reads one console and does nothing else.
func BenchmarkDrain(b *testing.B) {
	p := output(0, 16<<10)
	b.Run("drainer", func(b *testing.B) {
		d, stop := newDrainer(b)
		defer stop()
		ours, guest := socketPair(b)
		s, err := d.Add(ours, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			guest.Write(p)
		}
		guest.Close()
		awaitDrained(b, s)
	})
	b.Run("floor", func(b *testing.B) {
		ours, guest := socketPair(b)
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(counter{new(atomic.Int64)}, ours)
		}()
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			guest.Write(p)
		}
		guest.Close()
		<-done
	})
}
