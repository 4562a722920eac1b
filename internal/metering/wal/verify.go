package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
)

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
	known := map[uint64]Hash{}
	for _, t := range trusted {
		known[t.Seq] = t.Hash
	}
	if err := report.follow(src, known, each); err != nil {
		return err
	}
	report.conclude(known)
	return nil
}

func (r *Report) follow(src *stillSource, known map[uint64]Hash, each func(Entry) error) error {
	reader := newReader(src, 0)
	defer reader.Close()
	if first, prev := src.begin(); first <= r.Acked+1 { // what is before was acknowledged, and removed
		reader.begin(first, prev)
	}
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
			var sealed Hash
			if e.Seq == reader.end {
				sealed = reader.sealed
			}
			r.count(e, sealed, known)
		}
		if err := each(e); err != nil {
			return err
		}
	}
}
