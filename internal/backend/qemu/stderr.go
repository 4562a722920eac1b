package qemu

import (
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// stderrFile is the FIFO that takes what QEMU says when something is wrong; it has no other way to say why it refuses
// to start.
const stderrFile = "stderr"

// maxStderr is how much of its end is kept.
const maxStderr = 1 << 10

// lastWords is the end of what a QEMU says on stderr.
type lastWords struct {
	source *console.Source // nil where nobody listens

	mu   sync.Mutex
	tail tailWriter
}

// listen reads what comes, and what came while no metald was there, until QEMU has ended.
func (w *lastWords) listen(runDir string, drainer *console.Drainer) error {
	file, err := vmmprocess.OpenStderr(filepath.Join(runDir, stderrFile))
	if err != nil {
		return err
	}
	w.source, err = drainer.Add(file, w)
	return err
}

// Write is for the drainer.
func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.Write(p)
}

// text returns the last lines that a QEMU which has ended wrote, "" if there are none.
func (w *lastWords) text() string {
	if w.source != nil {
		timer := time.NewTimer(drainTimeout)
		defer timer.Stop()
		select {
		case <-w.source.Drained():
		case <-timer.C:
		}
		w.close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.String()
}

func (w *lastWords) close() {
	if w.source != nil {
		w.source.Close()
	}
}

// tailWriter keeps the last of what is written to it, as one line.
type tailWriter struct{ text []byte }

func (w *tailWriter) Write(p []byte) (int, error) {
	w.text = append(w.text, p[max(0, len(p)-maxStderr):]...)
	if over := len(w.text) - maxStderr; over > 0 {
		w.text = append(w.text[:0], w.text[over:]...)
	}
	return len(p), nil
}

func (w *tailWriter) String() string {
	text := strings.ToValidUTF8(strings.TrimSpace(string(w.text)), "?")
	return strings.ReplaceAll(text, "\n", "; ")
}
