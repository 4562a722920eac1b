// Package backendtest is what the tests of every backend need: a guest's screen, a directory for VMMs, files. How long
// they wait is for them to say.
package backendtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Screen is what a guest wrote, and metald noted beside it. The zero Screen is ready, and safe for concurrent use.
type Screen struct {
	mu    sync.Mutex
	text  bytes.Buffer
	notes []string
	more  chan struct{} // closed by the next Write; nil where nobody waits
}

// Write takes what the guest says.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
	return len(p), nil
}

// Note takes what metald says.
func (s *Screen) Note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, text)
}

// Notes returns what metald said.
func (s *Screen) Notes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.notes...)
}

// String returns what the guest said.
func (s *Screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// WaitFor returns once the guest has said text, and fails the test where it has not within limit.
func (s *Screen) WaitFor(tb testing.TB, limit time.Duration, text string) {
	tb.Helper()
	deadline := time.After(limit)
	for {
		found, more := s.look(text)
		if found {
			return
		}
		select {
		case <-more:
		case <-deadline:
			tb.Fatalf("%q was not on the console:\n%s", text, s)
		}
	}
}

// look tells whether text is there, and what is closed when there is more.
func (s *Screen) look(text string) (found bool, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.more == nil {
		s.more = make(chan struct{})
	}
	return bytes.Contains(s.text.Bytes(), []byte(text)), s.more
}

// Eventually waits for a thing that can only be asked for.
func Eventually(tb testing.TB, limit time.Duration, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatalf("never came true: %s", what)
		}
	}
}

// Reap has a backend reap what may be left of a machine, and returns what it used in all as far as that is known.
func Reap(tb testing.TB, b types.Backend, h types.Handle) types.Usage {
	tb.Helper()
	last, err := b.Reap(context.Background(), h)
	if err != nil {
		tb.Fatal(err)
	}
	return last
}

// Dir makes a directory that ends with the test, is short enough for sockets, and others may pass through.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// Write makes a file that everybody may read.
func Write(tb testing.TB, path string, content []byte) {
	tb.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		tb.Fatal(err)
	}
}

// Copy copies a file.
func Copy(tb testing.TB, from, to string) {
	tb.Helper()
	in, err := os.Open(from)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		tb.Fatal(err)
	}
}

// Log writes a log to the test's.
type Log struct{ testing.TB }

// Write takes one line.
func (l Log) Write(p []byte) (int, error) {
	l.TB.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
