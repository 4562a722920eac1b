package console

import (
	"os"
	"strings"
	"sync"
	"time"
)

// maxWords is how much is kept of the end of what a VMM says, in bytes.
const maxWords = 1 << 10

// wordsTimeout is how long the last words of a VMM that has ended may take to be read.
const wordsTimeout = time.Second

// LastWords is the end of what a VMM says on its standard error. It is safe for concurrent use once Listen returned.
type LastWords struct {
	source *Source // nil where nobody listens

	mu   sync.Mutex
	tail Tail
}

// Listen reads what comes out of pipe, which it owns, and what came while no metald was there, until the VMM has ended.
func (w *LastWords) Listen(pipe *os.File, drainer *Drainer) (err error) {
	w.source, err = drainer.Add(pipe, w)
	return err
}

// Write is for the drainer.
func (w *LastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.Write(p)
}

// Text returns the last lines that a VMM which has ended wrote, "" if there are none.
func (w *LastWords) Text() string {
	if w.source != nil {
		timer := time.NewTimer(wordsTimeout)
		defer timer.Stop()
		select {
		case <-w.source.Drained():
		case <-timer.C:
		}
		w.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.String()
}

// Close stops listening. Repeatable.
func (w *LastWords) Close() {
	if w.source != nil {
		w.source.Close()
	}
}

// Tail keeps the last of what is written to it, as one line.
type Tail struct{ text []byte }

// Write keeps the end of p.
func (w *Tail) Write(p []byte) (int, error) {
	w.text = append(w.text, p[max(0, len(p)-maxWords):]...)
	if over := len(w.text) - maxWords; over > 0 {
		w.text = append(w.text[:0], w.text[over:]...)
	}
	return len(p), nil
}

// String returns what was kept, in one line.
func (w *Tail) String() string {
	text := strings.ToValidUTF8(strings.TrimSpace(string(w.text)), "?")
	return strings.ReplaceAll(text, "\n", "; ")
}
