package raw

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func list(t *testing.T, dir string) []string {
	t.Helper()
	var got []string
	if err := Read(dir, func(content []byte) error { got = append(got, string(content)); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func write(t *testing.T, dir string, limit int64, from, to int) (want []string) {
	t.Helper()
	l, err := Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := from; i < to; i++ {
		want = append(want, fmt.Sprint("record ", i))
		if err := l.Append([]byte(want[len(want)-1])); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

func TestSegmentsAreSealedAndRead(t *testing.T) {
	dir := t.TempDir()
	want := append(write(t, dir, 100, 0, 20), write(t, dir, 100, 20, 33)...)
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	if names, err := sealedNames(dir); err != nil || len(names) < 4 {
		t.Errorf("sealed %v, %v", names, err)
	}
	l, err := Open(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if string(l.Last()) != want[len(want)-1] {
		t.Errorf("the last is %q", l.Last())
	}
}

// TestATornEndIsCut cuts the open segment at every byte of its last record, and fills the rest with zeros or not.
func TestATornEndIsCut(t *testing.T) {
	dir := t.TempDir()
	want := write(t, dir, 1<<20, 0, 3)
	path := filepath.Join(dir, openName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(whole) * 2 / 3; cut < len(whole); cut++ {
		for _, tail := range []int{0, 1, 512} {
			if err := os.WriteFile(path, append(slices.Clone(whole[:cut]), make([]byte, tail)...), 0o600); err != nil {
				t.Fatal(err)
			}
			more := write(t, dir, 1<<20, 9, 10)
			if got := list(t, dir); !slices.Equal(got, append(slices.Clone(want[:2]), more...)) {
				t.Fatalf("cut at %d with %d zeros: %q", cut, tail, got)
			}
		}
	}
}

func TestASealedSegmentThatWasEditedIsNoticed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, 100, 0, 10)
	names, err := sealedNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, names[0])
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		edited := slices.Clone(whole)
		edited[i] ^= 1
		if err := os.WriteFile(path, edited, 0o600); err != nil {
			t.Fatal(err)
		}
		if Read(dir, func([]byte) error { return nil }) == nil {
			t.Fatalf("byte %d was edited, and nobody noticed", i)
		}
	}
}
