package fifo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
)

// bench is a Collector of a new FIFO.
type bench struct {
	dir   string
	fifo  *os.File
	write int
	c     *Collector
}

func newBench(t testing.TB, devices metrics.Devices) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir()}
	b.fifo, b.write = newFIFO(t, b.dir)
	c, err := Create(b.dir, devices, b.fifo)
	must(t, err)
	b.c = c
	t.Cleanup(func() { b.c.release() })
	return b
}

func (b *bench) put(t testing.TB, text string) {
	t.Helper()
	if n, err := unix.Write(b.write, []byte(text)); n != len(text) {
		t.Fatalf("the pipe took %d of %d bytes: %v", n, len(text), err)
	}
}

func (b *bench) unread(t testing.TB) int {
	t.Helper()
	n, err := unix.IoctlGetInt(b.write, unix.TIOCINQ)
	must(t, err)
	return n
}

func TestNothingIsKnownBeforeTheFirstLine(t *testing.T) {
	b := newBench(t, twoAndTwo)
	must(t, b.c.Collect())
	if got := b.c.Totals(); got.Lines != 0 || len(got.Drives) != 0 || got.Partial || got.InGap || len(got.Gaps) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestAVMMThatDoesNotStart has nobody who writes, as before InstanceStart.
func TestAVMMThatDoesNotStart(t *testing.T) {
	b := newBench(t, twoAndTwo)
	null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Dup3(null, b.write, unix.O_CLOEXEC)) // closes the FIFO's only end for writing
	must(t, unix.Close(null))
	must(t, b.c.Collect())
	must(t, b.c.End(true))
	if got := b.c.Totals(); !got.Ended || got.Lines != 0 || len(got.Gaps) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestHalfALineStopsNobody has a line come in pieces, and a metald that restarts between them.
func TestHalfALineStopsNobody(t *testing.T) {
	b := newBench(t, twoAndTwo)
	line := oneLine(t)
	for i := 0; i < len(line); i += 999 {
		b.put(t, line[i:min(i+999, len(line))])
		must(t, b.c.Collect())
		if b.unread(t) != 0 {
			t.Fatal("bytes stay in the pipe")
		}
		if i%2 == 0 {
			must(t, b.c.checkpoint())
		}
		must(t, b.c.Close())
		c, err := Open(b.dir, twoAndTwo, b.fifo)
		must(t, err)
		b.c = c
	}
	if got := b.c.Totals(); got.Lines != 1 || len(got.Gaps) != 0 || got.Unread.Pieces != 0 {
		t.Errorf("%+v", got)
	}
}

// oneLine is what a vmm writes in its first flush.
func oneLine(t testing.TB) string {
	t.Helper()
	fifo, write := newFIFO(t, t.TempDir())
	newVMM(write, 3).tick()
	p := make([]byte, 64<<10)
	n, err := fifo.Read(p)
	must(t, err)
	return string(p[:n])
}

// TestAFloodCostsABoundedPartOfATick fills the pipe again and again with garbage that has no line in it.
func TestAFloodCostsABoundedPartOfATick(t *testing.T) {
	for name, garbage := range map[string]string{
		"no line":    strings.Repeat("x", 4096),
		"many lines": strings.Repeat("x\n", 2048),
		"objects":    strings.Repeat(`{"utc_timestamp_ms"`, 4096/19),
		"nested":     strings.Repeat(`[`, 4096),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, twoAndTwo)
			for range 40 {
				fill(b.write, garbage)
				before := b.unread(t)
				must(t, b.c.Collect())
				if took := before - b.unread(t); took > maxCollect || took == 0 {
					t.Fatalf("%d bytes were taken", took)
				}
				for _, half := range b.c.halves {
					if half == nil {
						continue
					}
					info, err := half.Stat()
					must(t, err)
					if info.Size() > 2<<20 {
						t.Fatalf("a file has grown to %d bytes", info.Size())
					}
				}
			}
			must(t, b.c.drain())
			line := oneLine(t)
			b.put(t, "\n"+line)
			must(t, b.c.Collect())
			if got := b.c.Totals(); got.Lines != 1 || len(got.Gaps) != 1 || got.Unread.Pieces == 0 || got.InGap {
				t.Errorf("%+v", got)
			}
		})
	}
}

func fill(write int, text string) {
	for {
		if _, err := unix.Write(write, []byte(text)); err != nil {
			return
		}
	}
}

func TestTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		tail    string
		orderly bool
		lines   uint64
		gap     bool
	}{
		"orderly":                     {"", true, 3, false},
		"killed":                      {"", false, 3, true},
		"orderly, without the end":    {"whole", true, 4, false},
		"orderly, in the middle of a": {"half", true, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, twoAndTwo)
			line := oneLine(t)
			b.put(t, line+line)
			must(t, b.c.Collect())
			b.put(t, line+map[string]string{"whole": strings.TrimSuffix(line, "\n"), "half": line[:500]}[tt.tail])
			for range 3 { // repeatable, also after a restart
				must(t, b.c.End(tt.orderly))
				got := b.c.Totals()
				if got.Lines != tt.lines || !got.Ended || got.InGap || (len(got.Gaps) > 0) != tt.gap {
					t.Errorf("%+v", got)
				}
				if tt.gap && !got.Gaps[0].Before.IsZero() {
					t.Errorf("the gap ends at %s", got.Gaps[0].Before)
				}
				must(t, b.c.Close())
				c, err := Open(b.dir, twoAndTwo, b.fifo)
				must(t, err)
				b.c = c
			}
		})
	}
}

// TestALineIsCountedAsOftenAsItCame has lines without any identity.
func TestALineIsCountedAsOftenAsItCame(t *testing.T) {
	b := newBench(t, twoAndTwo)
	line := oneLine(t)
	for range 50 {
		b.put(t, line)
		_, err := crash(b.c, int(b.unread(t))%3, -1, b.c.Collect)
		must(t, err)
		b.c.release()
		c, err := Open(b.dir, twoAndTwo, b.fifo)
		must(t, err)
		b.c = c
	}
	must(t, b.c.Collect())
	if got := b.c.Totals(); got.Lines != 50 || len(got.Gaps) != 0 {
		t.Errorf("%d lines, gaps %v", got.Lines, got.Gaps)
	}
}

// TestADiskThatIsFull has no room for a state: nothing is taken, nothing is lost, and it goes on once there is.
func TestADiskThatIsFull(t *testing.T) {
	b := newBench(t, twoAndTwo)
	line := oneLine(t)
	other := 1 - b.c.current
	file, err := b.c.half(other)
	must(t, err)
	readOnly, err := os.Open(file.Name())
	must(t, err)
	defer readOnly.Close()
	b.c.halves[other] = readOnly
	var refused error
	lines := 0
	for refused == nil {
		b.put(t, line)
		lines++
		refused = b.c.Collect()
	}
	for range 5 {
		b.put(t, line)
		lines++
		if b.c.Collect() == nil || b.unread(t) < len(line) {
			t.Fatal("bytes are taken that may be lost")
		}
	}
	b.c.halves[other] = file
	must(t, b.c.Collect())
	if got := b.c.Totals(); got.Lines != uint64(lines) || len(got.Gaps) != 0 {
		t.Errorf("%d lines of %d, gaps %v", got.Lines, lines, got.Gaps)
	}
}

// TestTotalsMayBeReadAtAnyTime is for the race detector. What is read never falls.
func TestTotalsMayBeReadAtAnyTime(t *testing.T) {
	b := newBench(t, twoAndTwo)
	v := newVMM(b.write, 1)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			var got Totals
			for last := uint64(0); ; last = got.Drives["root"].ReadBytes {
				select {
				case <-done:
					return
				default:
				}
				if b.c.ReadTotals(&got); got.Drives["root"].ReadBytes < last {
					t.Error("a total fell")
				}
			}
		})
	}
	for i := range 200 {
		v.tick()
		must(t, b.c.Collect())
		if i%50 == 49 {
			must(t, b.c.Missed())
		}
	}
	must(t, b.c.End(false))
	close(done)
	readers.Wait()
	v.check(t, b.c.Totals())
}

func TestCreateStartsAnew(t *testing.T) {
	b := newBench(t, twoAndTwo)
	b.put(t, oneLine(t))
	must(t, b.c.Close())
	c, err := Create(b.dir, twoAndTwo, b.fifo)
	must(t, err)
	b.c = c
	if got := c.Totals(); got.Lines != 0 || got.Partial || len(got.Gaps) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestALinkIsNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "theirs")
	must(t, os.WriteFile(outside, []byte("theirs"), 0o600))
	must(t, os.Symlink(outside, filepath.Join(dir, "metrics.1")))
	fifo, _ := newFIFO(t, dir)
	if _, err := Open(dir, twoAndTwo, fifo); err == nil {
		t.Error("a link in place of a state is accepted")
	}
	c, err := Create(dir, twoAndTwo, fifo) // replaces what is there
	must(t, err)
	must(t, c.Close())
	if text, _ := os.ReadFile(outside); string(text) != "theirs" {
		t.Errorf("what it points to is now %q", text)
	}
}

// TestAnyStream compares with a Decoder that reads the same bytes without a pipe, files and restarts.
func TestAnyStream(t *testing.T) {
	line := oneLine(t)
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		must(rt, err)
		fifo, write := newFIFO(t, dir)
		c, err := Create(dir, twoAndTwo, fifo)
		must(rt, err)
		plain, err := metrics.New(twoAndTwo)
		must(rt, err)
		for range rapid.IntRange(1, 40).Draw(rt, "pieces") {
			piece := []byte(line)
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				piece = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(rt, "random")
			case 1:
				piece = bytes.Repeat([]byte("[{\"a\":\n"[rapid.IntRange(0, 6).Draw(rt, "char"):]), rapid.IntRange(1, 9000).Draw(rt, "bomb"))
			case 2:
				piece = piece[:rapid.IntRange(1, len(piece)).Draw(rt, "cut")]
			case 3:
				piece = piece[rapid.IntRange(0, len(piece)-1).Draw(rt, "rest"):]
			}
			if n, err := unix.Write(write, piece); n != len(piece) {
				rt.Fatal(n, err)
			}
			plain.Feed(piece)
			ended, err := crash(c, rapid.IntRange(0, 9).Draw(rt, "steps"), rapid.IntRange(-1, 2000).Draw(rt, "torn"), c.Collect)
			must(rt, err)
			if ended {
				c, err = Open(dir, twoAndTwo, fifo)
				must(rt, err)
			}
		}
		must(rt, c.drain())
		if diff := cmp.Diff(plain.State(), c.decoder.State(), cmpopts.EquateEmpty()); diff != "" {
			rt.Fatal(diff)
		}
		must(rt, c.Close())
		unix.Close(write)
		fifo.Close()
		must(rt, os.RemoveAll(dir))
	})
}

// FuzzStateFile opens anything as a state.
func FuzzStateFile(f *testing.F) {
	b := newBench(f, twoAndTwo)
	good, err := os.ReadFile(b.c.halves[b.c.current].Name())
	must(f, err)
	f.Add(good, good[:30])
	f.Add([]byte(magic), []byte{})
	f.Add(append(bytes.Clone(good), oneLine(f)...), good)
	f.Fuzz(func(t *testing.T, zero, one []byte) {
		dir := t.TempDir()
		fifo, _ := newFIFO(t, dir)
		must(t, os.WriteFile(filepath.Join(dir, "metrics.0"), zero, 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "metrics.1"), one, 0o600))
		for i := range 2 {
			c, err := Open(dir, twoAndTwo, fifo)
			must(t, err)
			if i == 1 && c.Doubt() != nil {
				t.Errorf("doubted again: %v", c.Doubt())
			}
			got := c.Totals()
			if c.Doubt() != nil && !got.InGap {
				t.Errorf("a doubt %v without a gap: %+v", c.Doubt(), got)
			}
			must(t, c.Close())
		}
	})
}
