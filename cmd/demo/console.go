package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// screen collects what the guest says, prints its own lines, and lets the play wait for what it wants to read.
type screen struct {
	out io.Writer

	mu      sync.Mutex
	text    bytes.Buffer
	shown   int // bytes of text that were printed or passed over
	changed chan struct{}
	err     error // the stream ended with it
	over    bool
}

func newScreen(out io.Writer) *screen {
	return &screen{out: out, changed: make(chan struct{})}
}

// watch fills the screen until the stream ends.
func (s *screen) watch(ctx context.Context, c client, id string) {
	err := c.streamConsole(ctx, id, func(data []byte) bool {
		s.update(func() { s.text.Write(data) })
		return true
	})
	s.update(func() { s.err, s.over = err, true })
}

func (s *screen) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.show()
	close(s.changed)
	s.changed = make(chan struct{})
}

// show prints the whole lines of the guest's own user space that were not printed yet; the kernel's are too many.
func (s *screen) show() {
	rest := s.text.Bytes()[s.shown:]
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			return
		}
		s.shown += len(line) + 1
		rest = after
		if text := strings.TrimSpace(string(line)); strings.HasPrefix(text, guestPrefix) {
			fmt.Fprintf(s.out, "      | %s\n", text)
		}
	}
}

// length is how much the guest has said so far.
func (s *screen) length() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Len()
}

// await waits until the guest has said want after its first from bytes.
func (s *screen) await(ctx context.Context, from int, want string) error {
	for {
		s.mu.Lock()
		said := string(s.text.Bytes()[from:])
		changed, over, err := s.changed, s.over, s.err
		s.mu.Unlock()
		if strings.Contains(said, want) {
			return nil
		}
		if over {
			return fmt.Errorf("the console ended (%v) before the guest said %q", err, want)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("the guest did not say %q; it said:\n%s", want, lastLines(said, 20))
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
