package wal

import (
	"bytes"
	"maps"
	"slices"
	"testing"
)

// files are the contents of a log's directory.
type files map[string][]byte

func (d *disk) files() files {
	f := files{}
	for name, node := range d.names {
		f[name] = bytes.Clone(node.data)
	}
	return f
}

// disk is one with these files, all of them durable.
func (f files) disk() *disk {
	d := newDisk()
	for name, data := range f {
		d.names[name] = &inode{data: bytes.Clone(data), platter: bytes.Clone(data), dirty: map[int]bool{}}
	}
	d.platter = maps.Clone(d.names)
	return d
}

func (f files) clone() files {
	c := files{}
	for name, data := range f {
		c[name] = bytes.Clone(data)
	}
	return c
}

// segments are the names of the segments, in their order.
func (f files) segments() []string {
	var names []string
	for name := range f {
		if segmentNumber(name) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// filed is a log of n records in many segments, and what its directory was and what its head was after each ten.
func filed(t testing.TB, n int) (f files, earlier []files, heads []Trusted) {
	t.Helper()
	d := newDisk()
	l, err := OpenDir(d, tiny)
	if err != nil {
		t.Fatal(err)
	}
	w := l.newWriter()
	for i := range n {
		if _, err := l.Append(Record{Keyframe: l.NeedsKeyframe() || i%10 == 0, Body: body(uint64(i + 1))}); err != nil {
			t.Fatal(err)
		}
		w.commit(w.retry)
		if i%10 == 9 {
			seq, hash := l.Head()
			heads, earlier = append(heads, Trusted{seq, hash}), append(earlier, d.files())
		}
	}
	if l.durable != uint64(n) {
		t.Fatal(l.Status())
	}
	w.finish()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records in %d segments", n, len(d.files().segments()))
	return d.files(), earlier, heads
}

// read is what a stranger reads of a directory.
func (f files) read(t testing.TB, trusted ...Trusted) (Report, map[uint64]string) {
	t.Helper()
	var report Report
	there := map[uint64]string{}
	if err := walkDir(f.disk(), &report, trusted, func(e Entry) error {
		if e.Lost == nil {
			there[e.Seq] = string(e.Body)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return report, there
}
