package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small segments are begun often.
var small = Options{SegmentBytes: 32 << 10, ReserveBytes: minSegment, Label: []byte("host a")}

func body(seq uint64) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("record %d.", seq)), 1+int(seq%7))
}

// write appends n records, every tenth a keyframe, and ends the log in good order.
func write(t testing.TB, dir string, opt Options, n int) {
	t.Helper()
	l, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	for i := range n {
		next := l.Status().Next
		seq, err := l.Append(Record{Keyframe: i%10 == 0 || l.NeedsKeyframe(), Body: body(next)})
		if err != nil || seq != next {
			t.Fatal(seq, err)
		}
		deadline, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := l.Wait(deadline, seq); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	stop()
	if err := errors.Join(<-ran, l.Close()); err != nil {
		t.Fatal(err)
	}
}

// check verifies the log, and that every record has the body that it was written with.
func check(t testing.TB, dir string) Report {
	t.Helper()
	err := Walk(dir, func(e Entry) error {
		if e.Lost == nil && !bytes.Equal(e.Body, body(e.Seq)) {
			t.Errorf("record %d is %q", e.Seq, e.Body)
		}
		return nil
	})
	report, err2 := Verify(dir)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return report
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, small, 700)
	write(t, dir, small, 700)
	r := check(t, dir)
	if !r.OK() || r.Records != 1400 || r.Last != 1400 || r.Segments < 5 {
		t.Errorf("%+v", r)
	}
	var out strings.Builder
	if err := Dump(&out, dir); err != nil || strings.Count(out.String(), "\n") != 1401 {
		t.Error(err, out.Len())
	}
}

func lastSegment(t testing.TB, dir string) string {
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return names[len(names)-1]
}

// TestTornAtEveryByte leaves the last record at each of its bytes, with nothing behind it.
func TestTornAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, small, 20)
	name := lastSegment(t, dir)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	h, err := decodeHeader(whole[:headerSize])
	if err != nil {
		t.Fatal(err)
	}
	start := firstFrame
	for f := h.salt.parseFrame(whole[start:]); f.seq() != 20; f = h.salt.parseFrame(whole[start:]) {
		start += frameSize(f.bodyLen())
	}
	end := start + frameHeader + len(body(20))
	for cut := start; cut < end; cut++ {
		torn := make([]byte, small.SegmentBytes)
		copy(torn, whole[:cut])
		again := t.TempDir()
		if err := os.WriteFile(filepath.Join(again, filepath.Base(name)), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		write(t, again, small, 2)
		r := check(t, again)
		lost := 1
		if cut == start { // nothing tells of it
			lost = 0
		}
		if len(r.Lost) != lost || !r.OK() || r.Records != 21 || lost == 1 && (r.Lost[0].First != 20 || r.Lost[0].Last != 20) {
			t.Fatalf("cut at %d of %d to %d: %+v", cut, start, end, r)
		}
	}
}

// TestBitFlips flips one bit anywhere in a log. Nothing wrong is read, and one record is repaired at most.
func TestBitFlips(t *testing.T) {
	rounds := 500
	if os.Getenv("METALD_TEST_SOAK") != "" {
		rounds = 10_000
	}
	dir := t.TempDir()
	write(t, dir, small, 300)
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		name := names[random.IntN(len(names))]
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at, bit := random.IntN(len(b)), byte(1)<<random.IntN(8)
		b[at] ^= bit
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := check(t, dir); !r.OK() || r.Records != 300 || len(r.Repaired) > 1 || len(r.Lost) > 0 {
			t.Fatalf("seed %d, %s byte %d bit %#x: %+v", seed, name, at, bit, r)
		}
		b[at] ^= bit
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReaderFollows(t *testing.T) {
	l, err := Open(t.TempDir(), small)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	r := l.NewReader(0)
	defer r.Close()
	for seq := uint64(1); seq <= 600; seq++ {
		if _, err := l.Append(Record{Keyframe: seq%10 == 1 || l.NeedsKeyframe(), Body: body(seq)}); err != nil {
			t.Fatal(err)
		}
		deadline, cancel := context.WithTimeout(ctx, 10*time.Second)
		e, err := r.Next(deadline)
		cancel()
		if err != nil || e.Lost != nil || e.Seq != seq || !bytes.Equal(e.Body, body(seq)) {
			t.Fatalf("%d: %+v %v", seq, e, err)
		}
	}
	segments := len(l.segments)
	if err := l.Ack(500); err != nil {
		t.Fatal(err)
	}
	if len(l.segments) >= segments {
		t.Error("nothing was removed")
	}
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
