package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second // for a thing that takes milliseconds on an idle machine

// output is what the guest of the tests writes: the byte at an offset tells which offset it is.
func output(from, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((from + int64(i)) * 31 % 251)
	}
	return b
}

func open(t testing.TB, dir string, capacity int64) *Log {
	t.Helper()
	l, err := Open(dir, capacity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// write writes n bytes of output and fails if the guest would notice anything.
func write(t interface{ Fatalf(string, ...any) }, l *Log, from, n int64) {
	if got, err := l.Write(output(from, n)); err != nil || int64(got) != n {
		t.Fatalf("Write told the guest of %d bytes and error %v", got, err)
	}
}

// readAll reads to the end, checks that the chunks hold what was written at their offsets, and returns the
// offset of the end and how much was lost.
func readAll(t interface{ Fatalf(string, ...any) }, r *Reader) (end, lost int64) {
	at := r.next
	for {
		c, err := r.Next(context.Background(), false)
		if err == io.EOF {
			return at, lost
		}
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		if c.Offset != at+c.Lost || c.Lost < 0 || c.Lost == 0 && len(c.Bytes) == 0 {
			t.Fatalf("chunk of %d bytes at %d with %d lost, after offset %d", len(c.Bytes), c.Offset, c.Lost, at)
		}
		if !bytes.Equal(c.Bytes, output(c.Offset, int64(len(c.Bytes)))) {
			t.Fatalf("chunk at %d holds other bytes than were written there", c.Offset)
		}
		at, lost = c.Offset+int64(len(c.Bytes)), lost+c.Lost
	}
}

func onDisk(t interface{ Fatalf(string, ...any) }, dir string) (total int64, names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatalf("%v", err)
		}
		total += info.Size()
		names = append(names, e.Name())
	}
	return total, names
}

func TestNothingOnDiskBeforeTheFirstWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm", "console")
	l := open(t, dir, 1024)
	if b, err := l.Tail(10); err != nil || len(b) != 0 {
		t.Errorf("tail %q (%v), want nothing", b, err)
	}
	if _, err := l.Reader(-1).Next(t.Context(), false); err != io.EOF {
		t.Errorf("error %v, want %v", err, io.EOF)
	}
	if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want that there is no directory yet", err)
	}
	write(t, l, 0, 1)
	if info, err := os.Lstat(dir); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("directory %v (%v), want mode 0700", info, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, "00000000000000000000.log")); err != nil || info.Mode() != 0o600 {
		t.Errorf("segment %v (%v), want mode 0600", info, err)
	}
}

// Whatever is written and however often metald restarts: the bound holds, the newest half is kept, offsets go
// on, and readers get what was written or are told that it is lost.
func TestLogKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "m")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir)
		capacity := rapid.Int64Range(2, 200).Draw(t, "capacity")
		l, err := Open(dir, capacity)
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer func() { l.Close() }()
		slow := l.Reader(-1)
		var end, lost int64
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				n := rapid.Int64Range(0, 300).Draw(t, "n")
				write(t, l, end, n)
				end += n
			},
			"restart": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "orderly") {
					if err := l.Close(); err != nil {
						t.Fatalf("Close: %v", err)
					}
				} else {
					defer l.Close() // its file, to leave none open; nothing depends on it
				}
				reopened, err := Open(dir, capacity)
				if err != nil {
					t.Fatalf("%v", err)
				}
				slow.l, l = reopened, reopened
			},
			"read slowly": func(t *rapid.T) {
				_, n := readAll(t, slow)
				lost += n
			},
			"tail": func(t *rapid.T) {
				n := rapid.Int64Range(0, 300).Draw(t, "n")
				b, err := l.Tail(n)
				if err != nil {
					t.Fatalf("Tail: %v", err)
				}
				if least := min(n, end, capacity/2); int64(len(b)) < least || int64(len(b)) > n {
					t.Fatalf("tail of %d bytes has %d, at least %d are kept", n, len(b), least)
				}
				if !bytes.Equal(b, output(end-int64(len(b)), int64(len(b)))) {
					t.Fatalf("the tail is not the newest output")
				}
			},
			"": func(t *rapid.T) {
				if total, names := onDisk(t, dir); total > capacity || len(names) > 2 {
					t.Fatalf("%d bytes on disk in %v, the bound is %d", total, names, capacity)
				}
				if got, _ := readAll(t, l.Reader(-1)); got != end {
					t.Fatalf("the log ends at %d, %d bytes were written", got, end)
				}
			},
		})
	})
}

func TestTailBeyondWhatIsKeptTellsWhatIsLost(t *testing.T) {
	l := open(t, t.TempDir(), 100)
	write(t, l, 0, 220)
	for tail, want := range map[int64]int64{-1: 0, 0: 0, 20: 0, 70: 0, 71: 1, 100: 30, 220: 150, 1000: 150} {
		if end, lost := readAll(t, l.Reader(tail)); end != 220 || lost != want {
			t.Errorf("reader of the last %d bytes: end %d, lost %d, want 220 and %d", tail, end, lost, want)
		}
	}
}

func TestFollowersGoAtTheirOwnSpeed(t *testing.T) {
	const total, step = 1 << 20, 4 << 10
	l := open(t, t.TempDir(), 64<<10)
	var wg sync.WaitGroup
	follow := func(r *Reader, pause func()) {
		var at int64
		for {
			c, err := r.Next(t.Context(), true)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Errorf("Next: %v", err)
				return
			}
			if c.Offset != at+c.Lost || !bytes.Equal(c.Bytes, output(c.Offset, int64(len(c.Bytes)))) {
				t.Errorf("chunk at %d with %d lost after %d does not fit", c.Offset, c.Lost, at)
				return
			}
			at = c.Offset + int64(len(c.Bytes))
			pause()
		}
		if at != total {
			t.Errorf("a follower ended at %d, want %d", at, total)
		}
	}
	quick, slow, idle := l.Reader(-1), l.Reader(-1), l.Reader(-1)
	stuck := make(chan struct{})
	wg.Go(func() { follow(quick, func() {}) })
	wg.Go(func() { follow(slow, func() { time.Sleep(time.Millisecond) }) }) // a slow client
	wg.Go(func() { follow(idle, func() { <-stuck }) })                      // a client that does not read
	for at := int64(0); at < total; at += step {
		write(t, l, at, step)
		if b, err := l.Tail(100); err != nil || !bytes.Equal(b, output(at+step-100, 100)) {
			t.Fatalf("tail %q, %v", b, err)
		}
	}
	close(stuck)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestFollowerWaits(t *testing.T) {
	l := open(t, t.TempDir(), 1024)
	r := l.Reader(-1)
	type result struct {
		c   Chunk
		err error
	}
	next := func(ctx context.Context) <-chan result {
		got := make(chan result, 1)
		go func() {
			c, err := r.Next(ctx, true)
			got <- result{c, err}
		}()
		for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) { // until it waits
			l.mu.Lock()
			waits := l.wake != nil
			l.mu.Unlock()
			if waits {
				return got
			}
			if time.Now().After(deadline) {
				t.Fatal("the follower does not wait")
			}
		}
	}
	got := next(t.Context())
	write(t, l, 0, 5)
	if res := <-got; res.err != nil || !bytes.Equal(res.c.Bytes, output(0, 5)) {
		t.Errorf("%+v, want the bytes that were written", res)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got = next(ctx)
	cancel()
	if res := <-got; res.err != context.Canceled {
		t.Errorf("error %v, want %v", res.err, context.Canceled)
	}
	got = next(t.Context())
	l.Close()
	if res := <-got; res.err != io.EOF {
		t.Errorf("error %v, want %v", res.err, io.EOF)
	}
	write(t, l, 5, 5) // a guest may write for longer than its log is open
}

func TestNote(t *testing.T) {
	l := open(t, t.TempDir(), 1024)
	l.Note("output was not observed for 3 s")
	if b, err := l.Tail(100); err != nil || string(b) != "\r\n[metald: output was not observed for 3 s]\r\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestOpenIgnoresGarbage(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "canary")
	for _, path := range []string{outside, filepath.Join(dir, "notes.txt"), filepath.Join(dir, "1.log"), filepath.Join(dir, "-0000000000000000001.log"), filepath.Join(dir, "99999999999999999999.log")} {
		if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "00000000000000000000.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "00000000000000000007.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, 100)
	write(t, l, 0, 3) // where the link is: lost
	write(t, l, 3, 3)
	if end, lost := readAll(t, l.Reader(1000)); end != 6 || lost != 3 {
		t.Errorf("end %d, lost %d, want 6 and 3", end, lost)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "garbage" {
		t.Errorf("a link was followed: %q, %v", b, err)
	}
}

// metald died between making a segment and removing the oldest.
func TestOpenFinishesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	for start, n := range map[int64]int64{0: 50, 50: 50, 100: 0} {
		if err := os.WriteFile(filepath.Join(dir, segment{start: start}.name()), output(start, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t, dir, 100)
	if _, names := onDisk(t, dir); len(names) != 2 {
		t.Errorf("%v on disk, want the two newest", names)
	}
	write(t, l, 100, 10)
	if end, lost := readAll(t, l.Reader(110)); end != 110 || lost != 50 {
		t.Errorf("end %d, lost %d, want 110 and 50", end, lost)
	}
}

func TestFilesThatOthersDamaged(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"cut":     func(path string) error { return os.Truncate(path, 20) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, 100)
			write(t, l, 0, 70)
			if err := damage(filepath.Join(dir, segment{}.name())); err != nil {
				t.Fatal(err)
			}
			want := int64(50)
			if name == "cut" {
				want = 30
			}
			if end, lost := readAll(t, l.Reader(-1)); end != 70 || lost != want {
				t.Errorf("end %d, lost %d, want 70 and %d", end, lost, want)
			}
		})
	}
}

func TestAFullDiskIsToldAndNotFelt(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := open(t, filepath.Join(dir, "console"), 1<<20)
	write(t, l, 0, 10)
	ballast := filepath.Join(dir, "ballast")
	fill := func() {
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
	}
	fill()
	write(t, l, 10, 8<<10) // some of it may fit the page that is there
	follower := l.Reader(-1)
	_, lost := readAll(t, follower)
	if lost == 0 {
		t.Fatal("nothing was lost on a full disk: this test tests nothing")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	write(t, l, 10+8<<10, 100)
	end, again := readAll(t, follower)
	if want := int64(10 + 8<<10 + 100); end != want || again != 0 {
		t.Errorf("end %d, lost %d, want %d and 0: the log goes on once there is room", end, again, want)
	}
	fill()
	write(t, l, end, 64<<10)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// The next metald counts on from there, and tells what is missing.
	if reopened, lost := readAll(t, open(t, filepath.Join(dir, "console"), 1<<20).Reader(end+64<<10)); reopened != end+64<<10 || lost == 0 {
		t.Errorf("end %d after a restart, lost %d, want %d and more than 0", reopened, lost, end+64<<10)
	}
}

func TestALogThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, 100); err == nil {
		t.Error("a file was opened as a directory")
	}
	if _, err := Open(t.TempDir(), 1); err == nil || !strings.Contains(err.Error(), "capacity") {
		t.Errorf("error %v, want one about the capacity", err)
	}
	dir := filepath.Join(t.TempDir(), "later")
	l := open(t, dir, 100)
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, l, 0, 1000)
	if end, lost := readAll(t, l.Reader(1000)); end != 1000 || lost != 1000 {
		t.Errorf("end %d, lost %d, want that all is lost", end, lost)
	}
}

func TestAnIdleLogIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Log{}); size >= 200 {
		t.Errorf("a Log takes %d bytes", size)
	}
}

func BenchmarkWrite(b *testing.B) {
	p := output(0, 4096)
	b.Run("log", func(b *testing.B) {
		l := open(b, b.TempDir(), 1<<20)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			l.Write(p)
		}
	})
	b.Run("floor", func(b *testing.B) { // a file that is never rotated
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		b.SetBytes(int64(len(p)))
		at := int64(0)
		for b.Loop() {
			f.WriteAt(p, at%(1<<20))
			at += int64(len(p))
		}
	})
}
