package conformance

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func consoleSentences() []sentence {
	return []sentence{
		{"the console over restarts has nothing twice, and is in order", []Ability{Guest}, consoleInOrder},
		{"the console can be read after the VM's end, and over its next boot", []Ability{Guest}, consoleAfterEnd},
		{"who follows the console of a VM that is deleted is told its end", nil, consoleOfDeleted},
	}
}

// kept returns what is kept of a console, and checks that no byte of it is missing.
func (s *site) kept(log *console.Log) string {
	s.t.Helper()
	var text []byte
	for r, next := log.Reader(-1), int64(0); ; {
		chunk, err := r.Next(s.ctx(), false)
		if errors.Is(err, io.EOF) {
			return string(text)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if chunk.Offset != next || chunk.Lost != 0 {
			s.t.Errorf("after %d bytes of the console come those from %d, and %d are lost", next, chunk.Offset, chunk.Lost)
		}
		text, next = append(text, chunk.Bytes...), chunk.Offset+int64(len(chunk.Bytes))
	}
}

func (s *site) console(id types.VMID) *console.Log {
	s.t.Helper()
	log, err := s.Console(id)
	if err != nil {
		s.t.Fatal(err)
	}
	return log
}

// secondOf is the number that secondLine matched.
func secondOf(said string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(said, "second "))
	if err != nil {
		return 0
	}
	return n
}

// hearsMoreSeconds waits until a console has more lines of seconds than it had.
func (s *site) hearsMoreSeconds(id types.VMID, had int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx(), s.h.BootTimeout)
	defer cancel()
	var heard strings.Builder
	for r := s.console(id).Reader(-1); len(secondLine.FindAllString(heard.String(), -1)) <= had; {
		chunk, err := r.Next(ctx, true)
		if err != nil {
			s.t.Fatalf("no more than %d seconds were said: %v", had, err)
		}
		heard.Write(chunk.Bytes)
	}
}

func consoleInOrder(t *testing.T, s *site) {
	s.guest("a", guest.ArgCount+"=1")
	s.hears("a", guest.Second(1))
	for range 2 {
		before := secondLine.FindAllString(s.kept(s.console("a")), -1)
		s.restart()
		s.hearsMoreSeconds("a", len(before))
	}
	last := 0
	for _, said := range secondLine.FindAllString(s.kept(s.console("a")), -1) {
		n := secondOf(said)
		if n <= last {
			t.Errorf("%q comes after second %d", said, last)
		}
		last = n
	}
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Error(err)
	}
}

func consoleAfterEnd(t *testing.T, s *site) {
	s.guest("a")
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	s.wantState("a", lifecycle.Shutdown)
	before := s.kept(s.console("a"))
	s.hears("a", guest.Marker)
	s.boot("a")
	s.hearsTimes("a", guest.Marker, 2)
	if after := s.kept(s.console("a")); len(after) <= len(before) || after[:len(before)] != before {
		t.Errorf("the console was %q, and is %q", before, after)
	}
}

func consoleOfDeleted(t *testing.T, s *site) {
	s.running("a")
	log := s.console("a")
	followed := async(func() error {
		for r := log.Reader(-1); ; {
			if _, err := r.Next(s.ctx(), true); err != nil {
				return err
			}
		}
	})
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	if err := s.wait(followed, "who follows the console"); !errors.Is(err, io.EOF) {
		t.Errorf("who followed the console was told %v", err)
	}
	_, err := s.Console("a")
	s.wantKind(err, types.KindNotFound, "")
}
