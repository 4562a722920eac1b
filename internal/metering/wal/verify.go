package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Report is what Verify found.
type Report struct {
	Segments int
	Records  uint64 // that are there
	First    uint64 // the first number that is there
	Last     uint64
	Head     Hash // of the record Last
	Acked    uint64
	// Repaired are the numbers of records that were damaged and can be made from parity.
	Repaired []uint64
	Lost     []Loss
	// Broken are the numbers of records that do not follow the record before: somebody changed one of the two.
	Broken []uint64
	// Coarse is how many numbers are in records that were made coarser. The hashes of what they were are gone; the
	// headers of their segments say what the chain was before and after.
	Coarse     uint64
	Unreadable []string // files without a header
}

// OK says that all that was written is there as it was written.
func (r Report) OK() bool {
	for _, l := range r.Lost {
		if !l.Never {
			return false
		}
	}
	return len(r.Broken) == 0 && len(r.Unreadable) == 0
}

// Trusted is a hash of a record that somebody else kept, such as the receiver that counter-signed it.
type Trusted struct {
	Seq  uint64
	Hash Hash
}

// Verify reads the log in a directory, and checks each record and the chain, and the trusted hashes for the records
// that are still there. It changes nothing. If a Log is writing the directory, what is behind its last sync may be
// told as lost.
func Verify(path string, trusted ...Trusted) (Report, error) {
	var report Report
	err := walk(path, &report, trusted, func(Entry) error { return nil })
	return report, err
}

// Dump prints a line for each record, for each loss and at the end for the whole: what Verify checks, to be read.
func Dump(out io.Writer, path string) error {
	var report Report
	err := walk(path, &report, nil, func(e Entry) error {
		if e.Lost != nil {
			_, err := fmt.Fprintln(out, "lost", e.Lost)
			return err
		}
		_, err := fmt.Fprintf(out, "%d first=%d type=%d keyframe=%t final=%t level=%d repaired=%t bytes=%d hash=%x\n",
			e.Seq, e.First, e.Type, e.Keyframe, e.Final, e.Level, e.Repaired, len(e.Body), e.Hash)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "segments=%d records=%d last=%d acknowledged=%d lost=%d broken=%d unreadable=%d head=%x\n",
		report.Segments, report.Records, report.Last, report.Acked, len(report.Lost), len(report.Broken), len(report.Unreadable), report.Head)
	return err
}

// Walk calls each for everything in the log in a directory that nobody writes.
func Walk(path string, each func(Entry) error) error {
	return walk(path, &Report{}, nil, each)
}

func walk(path string, report *Report, trusted []Trusted, each func(Entry) error) error {
	dir, err := openDir(path, true)
	if err != nil {
		return err
	}
	defer dir.Close()
	return walkDir(dir, report, trusted, each)
}

func walkDir(dir Dir, report *Report, trusted []Trusted, each func(Entry) error) error {
	src, unreadable, err := newStillSource(dir)
	if err != nil {
		return err
	}
	report.Segments, report.Unreadable = len(src.segments), unreadable
	if f, err := dir.Open(ackName); err == nil {
		_, report.Acked = readAcks(f)
		f.Close()
	}
	r := newReader(src, 0)
	defer r.Close()
	if len(src.segments) > 0 { // what is before was acknowledged, and removed
		r.after = src.segments[0].first - 1
		for _, s := range src.segments {
			r.after = min(r.after, s.first-1)
		}
		r.pos, r.last, r.linked = r.after, src.segments[0].prev, true
	}
	known := map[uint64]Hash{}
	for _, t := range trusted {
		known[t.Seq] = t.Hash
	}
	return report.follow(r, known, each)
}

func (r *Report) follow(reader *Reader, known map[uint64]Hash, each func(Entry) error) error {
	for {
		linked, pos := reader.linked, reader.pos
		if reader.pending != nil { // a loss was told, and this is after it
			linked = false
		}
		e, err := reader.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Lost != nil {
			r.Lost = append(r.Lost, *e.Lost)
		} else {
			if !e.Follows && linked && pos+1 == e.First {
				r.Broken = append(r.Broken, e.Seq)
			}
			r.count(e, known)
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

func (r *Report) count(e Entry, known map[uint64]Hash) {
	if r.Records == 0 {
		r.First = e.First
	}
	r.Records++
	r.Last, r.Head = e.Seq, e.Hash
	if e.Repaired {
		r.Repaired = append(r.Repaired, e.Seq)
	}
	if e.Level > 0 {
		r.Coarse += e.Seq - e.First + 1
	} else if h, ok := known[e.Seq]; ok && h != e.Hash && !slices.Contains(r.Broken, e.Seq) {
		r.Broken = append(r.Broken, e.Seq)
	}
}
