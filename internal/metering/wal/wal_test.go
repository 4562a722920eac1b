package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
