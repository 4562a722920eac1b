package wal

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"
)

// running is a log with its Run, which the test ends.
func running(t *testing.T, d Dir, opt Options) (l *Log, stop func() error) {
	t.Helper()
	l, err := OpenDir(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	return l, sync.OnceValue(func() error { cancel(); return errors.Join(<-ran, l.Close()) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 10 s: ", what)
		}
	}
}

// TestFullDisk fills the disk under a log that runs, and makes room again.
func TestFullDisk(t *testing.T) {
	d := newDisk()
	opt := tiny
	opt.Retry, opt.PendingBytes = 5*time.Millisecond, 20<<10
	l, stop := running(t, d, opt)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	add := func(final bool) (uint64, error) {
		if l.NeedsKeyframe() && !final {
			if _, err := l.Append(Record{Keyframe: true, Body: body(l.Status().Next)}); err != nil {
				return 0, err
			}
		}
		return l.Append(Record{Final: final, Body: body(l.Status().Next)})
	}
	first, err := add(false)
	if err := errors.Join(err, l.Wait(ctx, first)); err != nil {
		t.Fatal(err)
	}
	d.fill()
	for err == nil {
		_, err = add(false)
	}
	if !errors.Is(err, ErrBehind) && !errors.Is(err, ErrKeyframe) {
		t.Fatal(err)
	}
	eventually(t, "it says so", func() bool { return l.Status().Full })
	pending := l.Status().Next - 1
	final, err := add(true)
	if err := errors.Join(err, l.WaitFinal(ctx, final)); err != nil {
		t.Fatal("a final record on a full disk: ", err)
	}
	if s := l.Status(); s.Durable >= final || s.ReserveErr == nil {
		t.Errorf("all is durable on a full disk: %+v", s)
	}
	d.empty()
	if err := l.Wait(ctx, pending); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is a reserve again", func() bool { s := l.Status(); return s.ReserveErr == nil && !s.Full && s.Err == nil })
	last, err := add(false)
	if err := errors.Join(err, l.Wait(ctx, last), stop()); err != nil {
		t.Fatal(err)
	}
	d.powerCut()
	var report Report
	if err := walkDir(d, &report, nil, func(e Entry) error {
		if e.Lost == nil && string(e.Body) != string(body(e.Seq)) {
			t.Errorf("record %d is %q", e.Seq, e.Body)
		}
		return nil
	}); err != nil || !report.OK() || report.Last != last || report.Records != last {
		t.Errorf("%+v %v", report, err)
	}
}

// TestFinalsOutlivePowerOnAFullDisk: what WaitFinal said holds without any other record, and before there ever was one.
func TestFinalsOutlivePowerOnAFullDisk(t *testing.T) {
	d := newDisk()
	opt := tiny
	opt.Retry = time.Millisecond
	l, stop := running(t, d, opt)
	defer stop()
	d.fill()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 5 {
		seq, err := l.Append(Record{Final: true, Body: body(l.Status().Next)})
		if err := errors.Join(err, l.WaitFinal(ctx, seq)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	d.powerCut()
	again, err := OpenDir(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	r := again.NewReader(0)
	defer r.Close()
	for seq := uint64(1); seq <= 5; seq++ {
		if e, err := r.Next(ctx); err != nil || e.Seq != seq || !e.Final || string(e.Body) != string(body(seq)) {
			t.Fatalf("%d: %+v %v", seq, e, err)
		}
	}
	if s := again.Status(); s.ReserveErr == nil || s.Next != 6 {
		t.Errorf("%+v", s)
	}
}

// TestReserveErrorStays: it is told until there is room put aside.
func TestReserveErrorStays(t *testing.T) {
	d := newDisk()
	d.fault = func(o op) error {
		if o.kind == "create" && o.name == reserveName+passing {
			return syscall.EIO
		}
		return nil
	}
	opt := tiny
	opt.Retry = time.Millisecond
	l, stop := running(t, d, opt)
	defer stop()
	seq, err := l.Append(Record{Final: true})
	if err := errors.Join(err, l.Wait(t.Context(), seq)); err != nil {
		t.Fatal(err)
	}
	if s := l.Status(); !errors.Is(s.ReserveErr, syscall.EIO) || s.Err != nil {
		t.Errorf("%+v", s)
	}
	d.mu.Lock()
	d.fault = nil
	d.mu.Unlock()
	eventually(t, "there is a reserve", func() bool { return l.Status().ReserveErr == nil })
}

// TestDiskThatHangs: the end of Run does not wait for it for ever, and says what is not written.
func TestDiskThatHangs(t *testing.T) {
	d := newDisk()
	hang, hangs := make(chan struct{}), make(chan struct{}, 1)
	l, err := OpenDir(stuckDir{d, hang, hangs}, Options{Last: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	if _, err := l.Append(Record{Keyframe: true}); err != nil {
		t.Fatal(err)
	}
	<-hangs
	cancel()
	if err := <-ran; err == nil || err.Error() != "records 1 to 1 are not durable: the disk did not answer for 20ms" {
		t.Error(err)
	}
	if err := l.Wait(t.Context(), 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if l.Close() == nil {
		t.Error("the directory was given up while it is written")
	}
	close(hang)
	eventually(t, "the writer ends", func() bool { return l.Status().Durable == 1 })
}

// stuckDir is one in which no new segment can be made for a while.
type stuckDir struct {
	*disk
	hang  chan struct{}
	hangs chan struct{}
}

func (d stuckDir) Create(name string) (File, error) {
	if name != reserveName+passing {
		d.hangs <- struct{}{}
		<-d.hang
	}
	return d.disk.Create(name)
}

func (d *disk) fill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = d.used()
}

func (d *disk) empty() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = -1
}

// powerCut loses all that was not synced.
func (d *disk) powerCut() { d.reboot(func() bool { return false }) }
