package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
)

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
	if s := r.log.Status(); s.Durable != s.Next-1 || s.Err != nil || s.ReserveErr != nil || s.RecoveryErr != nil {
		r.fail("after recovery: %+v", s)
	}
	r.shut()
	return r.verify()
}
