package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// rig drives a log on a disk by one goroutine, operation by operation, and knows what it was told about each record.
type rig struct {
	tester
	disk *disk
	opt  Options
	log  *Log
	w    *writer
	now  time.Time

	count    uint64
	appended map[uint64][]uint64 // what was appended with a number
	final    map[uint64]bool
	told     map[uint64]uint64 // what was read, or told to be durable
	unsure   map[uint64]bool   // was there, and the log said that it could not make it durable
	acked    uint64
	since    uint64 // the first number of this process
	desc     string
}

// tester is what the rig needs of a test, be it one of rapid's.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

const valueAt = 8 // of a body

// tiny segments take some fifteen of the rig's records.
var tiny = Options{SegmentBytes: minSegment, ReserveBytes: minSegment, Label: []byte("host a"), Thin: sums}

func newRig(t tester, opt Options) *rig {
	return &rig{tester: t, disk: newDisk(), opt: opt, now: time.Unix(0, 0), appended: map[uint64][]uint64{}, final: map[uint64]bool{}, told: map[uint64]uint64{}, unsure: map[uint64]bool{}}
}

// valued is a body that says one number. Its length varies.
func valued(value uint64) []byte {
	b := binary.LittleEndian.AppendUint64([]byte("the body"), value)
	return append(b, make([]byte, 250+int(value*37%250))...)
}

// sums makes one record of each four, which has the sum of their values.
func sums(_ int, records iter.Seq[Entry], emit func(Record) error) error {
	var sum, first, last uint64
	n, final := 0, false
	flush := func() error {
		err := emit(Record{First: first, Seq: last, Keyframe: true, Final: final, Body: valued(sum)})
		sum, n, first, final = 0, 0, last+1, false
		return err
	}
	for e := range records {
		if e.Lost != nil {
			if first == 0 {
				first = e.Lost.First
			}
			last = e.Lost.Last
			continue
		}
		if first == 0 {
			first = e.First
		}
		sum, last, final = sum+binary.LittleEndian.Uint64(e.Body[valueAt:]), e.Seq, final || e.Final
		if n++; n == 4 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if last >= first {
		return flush()
	}
	return nil
}

func (r *rig) fail(format string, args ...any) {
	r.Helper()
	log := r.disk.log[max(0, len(r.disk.log)-30):]
	r.Fatalf("%s: %s\nlast operations: %q", r.desc, fmt.Sprintf(format, args...), log)
}

func (r *rig) crashed() bool { return r.disk.crashAt >= 0 && r.disk.ops > r.disk.crashAt }

// open is the start of a process. It has to succeed unless the process ends meanwhile.
func (r *rig) open() bool {
	l, err := OpenDir(r.disk, r.opt)
	if r.crashed() {
		return false
	}
	if err != nil {
		r.fail("open: %v", err)
	}
	r.log, r.w, r.since = l, l.newWriter(), l.next
	for seq := range r.told {
		if seq >= l.next {
			r.fail("record %d was told, and its number is used again: next is %d", seq, l.next)
		}
	}
	r.read(l.NewReader(0), l.Status().Err == nil)
	return true
}

// append appends a record, with a keyframe before it where the log wants one.
func (r *rig) append(final bool) (uint64, error) {
	if r.log.NeedsKeyframe() && !final {
		if seq, err := r.put(Record{Keyframe: true}); err != nil {
			return seq, err
		}
	}
	return r.put(Record{Final: final})
}

func (r *rig) put(rec Record) (uint64, error) {
	r.count++
	rec.Body = valued(r.count)
	seq, err := r.log.Append(rec)
	if err != nil {
		return 0, err
	}
	if _, told := r.told[seq]; told {
		r.fail("record %d was told before, and is given out again", seq)
	}
	r.appended[seq] = append(r.appended[seq], r.count)
	r.final[seq] = rec.Final
	return seq, nil
}

// commit lets the log's writer do what it does when it is woken after a while, and notes what it then tells.
func (r *rig) commit() {
	r.now = r.now.Add(2 * r.opt.retry())
	r.w.tendReserve()
	r.w.commit(r.now)
	for seq := range r.appended {
		if seq >= r.since && (seq <= r.log.durable || r.final[seq] && seq <= r.log.finals) {
			r.tell(seq, r.appended[seq][len(r.appended[seq])-1])
		}
	}
}

func (o Options) retry() time.Duration { return max(o.Retry, time.Second) }

func (r *rig) tell(seq, value uint64) {
	r.Helper()
	if was, ok := r.told[seq]; ok && was != value {
		r.fail("record %d was %d, and is %d", seq, was, value)
	}
	r.told[seq] = value
}

func (r *rig) ack(seq uint64) {
	r.acked = max(r.acked, seq) // whatever comes of it: nobody needs them
	r.log.Ack(seq)
}

// shut ends the process in good order.
func (r *rig) shut() {
	r.w.finish()
	r.log.Close()
	r.disk.restart()
}

// read reads all that there is, and checks it.
func (r *rig) read(reader *Reader, live bool) {
	r.Helper()
	defer reader.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	seen := map[uint64]bool{}
	for {
		e, err := reader.Next(ctx)
		if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			r.fail("read: %v", err)
		}
		r.entry(e, seen, live)
	}
	for seq := range r.told {
		if !seen[seq] && seq > r.acked {
			r.fail("record %d was told to be durable, and is not there", seq)
		}
	}
}

func (r *rig) entry(e Entry, seen map[uint64]bool, tell bool) {
	r.Helper()
	if e.Lost != nil {
		return
	}
	value := binary.LittleEndian.Uint64(e.Body[valueAt:])
	if string(e.Body) != string(valued(value)) {
		r.fail("record %d is damaged", e.Seq)
	}
	var want uint64
	for seq := e.First; seq <= e.Seq; seq++ {
		if seen[seq] {
			r.fail("record %d is there twice", seq)
		}
		seen[seq] = true
		want += r.told[seq]
	}
	if e.Level > 0 {
		if want != value && !r.unsureOf(e) {
			r.fail("records %d to %d sum up to %d, and not %d", e.First, e.Seq, value, want)
		}
		return
	}
	known := false
	for _, v := range r.appended[e.Seq] {
		known = known || v == value
	}
	if !known {
		r.fail("record %d is %d, which nobody appended", e.Seq, value)
	}
	if want, ok := r.told[e.Seq]; ok && want != value {
		r.fail("record %d was %d, and is %d", e.Seq, want, value)
	}
	if tell {
		r.tell(e.Seq, value)
	} else if _, told := r.told[e.Seq]; !told {
		r.unsure[e.Seq] = true
	}
}

func (r *rig) unsureOf(e Entry) bool {
	for seq := e.First; seq <= e.Seq; seq++ {
		if _, told := r.told[seq]; r.unsure[seq] && !told {
			return true
		}
	}
	return false
}

// verify reads the directory as somebody else would.
func (r *rig) verify() Report {
	r.Helper()
	seen := map[uint64]bool{}
	var report Report
	if err := walkDir(r.disk, &report, nil, func(e Entry) error { r.entry(e, seen, false); return nil }); err != nil {
		r.fail("verify: %v", err)
	}
	for seq := range r.told {
		if !seen[seq] && seq > report.Acked {
			r.fail("record %d was told to be durable, and is not in the files: %+v", seq, report)
		}
	}
	if len(report.Broken) > 0 || len(report.Unreadable) > 0 {
		r.fail("%+v", report)
	}
	r.beginnings()
	if len(r.disk.broken) > 0 {
		r.fail("%q", r.disk.broken)
	}
	return report
}

// beginnings checks that each segment can be decoded from its beginning: final records, and then a keyframe.
func (r *rig) beginnings() {
	r.Helper()
	segments, _, _ := readSegments(r.disk)
	for _, s := range segments {
		all, err := scanSegment(r.disk, s.header)
		if err != nil || len(all.frames) == 0 {
			r.fail("segment %d: %v", s.number, err)
		}
		next := s.first
		for _, f := range all.frames {
			if f.keyframe() || f.first() != next { // the keyframe was torn
				break
			}
			next = f.seq() + 1
			if !f.final() {
				r.fail("segment %d begins with record %d, which is coded against another", s.number, f.seq())
			}
		}
	}
}

// recovers is what has to be so after any crash: everything told is there, and the log goes on.
func (r *rig) recovers() Report {
	r.Helper()
	r.verify()
	if !r.open() {
		return Report{}
	}
	for range 3 {
		if _, err := r.append(false); err != nil {
			r.fail("append: %v", err)
		}
	}
	r.commit()
	if r.crashed() {
		return Report{}
	}
	if s := r.log.Status(); s.Durable != s.Next-1 || s.Err != nil || s.ReserveErr != nil {
		r.fail("after recovery: %+v", s)
	}
	r.shut()
	return r.verify()
}

// work is a small life of a log: segments, restarts in good order and in none, final records, acknowledgements,
// compaction. It ends where the process does.
func (r *rig) work() {
	steps := []func(){
		func() { r.appends(9, 0) }, func() { r.appends(13, 5) }, func() { r.appends(12, 0) },
		func() { r.log.compactOne() },
		func() { r.shut(); r.open() },
		func() { r.appends(9, 4) },
		func() { r.ack(r.log.durable - 12) },
		func() { r.log.compactOne() }, func() { r.log.compactOne() },
		func() { r.disk.restart(); r.open() },
		func() { r.ack(r.log.durable) },
		func() { r.appends(6, 2) },
		func() { r.shut() },
	}
	if !r.open() {
		return
	}
	for _, step := range steps {
		if step(); r.crashed() {
			return
		}
	}
}

// appends appends n records, a few with each commit, and each of which the remainder by every is zero as a final one.
func (r *rig) appends(n, every int) {
	for i := range n {
		r.append(every > 0 && i%every == 0)
		if i%3 != 1 {
			r.commit()
		}
	}
	r.commit()
}
