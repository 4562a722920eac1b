package raw

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// sick is a file whose disk has errors.
type sick struct {
	file
	writes, syncs int // that are good before one fails; below zero for all
	err           error
}

func (s *sick) Write(b []byte) (int, error) {
	if s.writes--; s.writes == -1 {
		n, _ := s.file.Write(b[:len(b)/2])
		return n, s.err
	}
	return s.file.Write(b)
}

func (s *sick) Sync() error {
	if s.syncs--; s.syncs == -1 {
		return s.err
	}
	return s.file.Sync()
}

// TestADiskWithErrors has each write and each sync fail once. What Append took is kept, and what it refused can be
// given again.
func TestADiskWithErrors(t *testing.T) {
	for n := range 20 {
		for name, s := range map[string]*sick{
			"no room": {writes: n, syncs: -9, err: syscall.ENOSPC}, "write error": {writes: n, syncs: -9, err: syscall.EIO}, "sync error": {writes: -9, syncs: n, err: syscall.EIO},
		} {
			dir := t.TempDir()
			l, err := Open(dir, 100)
			if err != nil {
				t.Fatal(err)
			}
			s.file, l.file = l.file, s
			var want []string
			refused := 0
			for i := range 25 {
				content := string(rune('a'+i)) + " record"
				err := l.Append([]byte(content))
				if err != nil {
					if !errors.Is(err, s.err) {
						t.Fatalf("%s %d: %v", name, n, err)
					}
					refused++
					if s.syncs <= -1 && name == "sync error" { // only another process may try again
						if l.Append([]byte("x")) == nil {
							t.Fatalf("%s %d: a second sync was believed", name, n)
						}
						if err = errors.Join(l.Close()); err == nil {
							l, err = Open(dir, 100)
						}
						if err != nil {
							t.Fatal(err)
						}
					}
					if err := l.Append([]byte(content)); err != nil {
						t.Fatalf("%s %d: not taken again: %v", name, n, err)
					}
				}
				want = append(want, content)
			}
			if err := l.Close(); err != nil || refused == 0 && name != "sync error" {
				t.Errorf("%s %d: %d refused, %v", name, n, refused, err)
			}
			if got := slices.Compact(list(t, dir)); !slices.Equal(got, want) {
				t.Errorf("%s %d: kept %q", name, n, got)
			}
		}
	}
}

// TestNoRoomToSeal has no room for sealed segments for a while: records are taken all the same.
func TestNoRoomToSeal(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "0000000000"+sealed+".sha256.tmp")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	want := write(t, dir, 160, 0, 20)
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	want = append(want, write(t, dir, 160, 20, 40)...)
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	if names, err := sealedNames(dir); err != nil || len(names) == 0 {
		t.Errorf("sealed %v, %v", names, err)
	}
}

func TestAPlaceIsReadTo(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var want []string
	type place struct {
		at   Mark
		want int
	}
	var places []place
	for i := range 30 {
		places = append(places, place{l.Mark(), i})
		want = append(want, string(rune('a'+i))+" record")
		if err := l.Append([]byte(want[i])); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range places {
		var got []string
		if err := ReadTo(dir, p.at, func(content []byte) error { got = append(got, string(content)); return nil }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want[:p.want]) {
			t.Errorf("to %+v: %q", p.at, got)
		}
	}
}
