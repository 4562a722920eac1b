package console

import (
	"bytes"
	"io"
	"sync"
)

// panicWords begin the line by which Linux says that it panicked.
const panicWords = "Kernel panic - not syncing"

// panicWindow is how much a kernel may still print after that line and be thought dead by it: the trace of one CPU
// takes about 2 KiB.
const panicWindow = 16 << 10

// maxPanicLine bounds what is kept of the line.
const maxPanicLine = 160

// Watch passes a guest's console on and notes whether its kernel panicked: no VMM can tell a panic that reboots from a
// reboot. It is safe for concurrent use once Out is set.
type Watch struct {
	Out io.Writer // nil discards

	mu    sync.Mutex
	seam  []byte // the end of the last write, where the words may have begun
	line  []byte // the last line with the words, until it is complete; nil if there was none
	whole bool   // line is complete
	since int64  // bytes after it
}

// Write never fails towards the guest.
func (w *Watch) Write(p []byte) (int, error) {
	w.note(p)
	if w.Out != nil {
		_, _ = w.Out.Write(p) // the log counts what it loses
	}
	return len(p), nil
}

func (w *Watch) note(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seamed := append(w.seam, p[:min(len(p), len(panicWords)-1)]...)
	if i := bytes.LastIndex(p, []byte(panicWords)); i >= 0 {
		w.begin()
		w.extend(p[i:])
	} else if i := bytes.Index(seamed, []byte(panicWords)); i >= 0 {
		w.begin()
		w.extend(w.seam[i:])
		w.extend(p)
	} else if w.line != nil {
		w.extend(p)
	}
	if len(p) < len(panicWords) {
		p = append(w.seam, p...)
	}
	w.seam = append(w.seam[:0:0], p[max(0, len(p)-len(panicWords)+1):]...)
}

func (w *Watch) begin() { w.line, w.whole, w.since = []byte{}, false, 0 }

// extend takes what follows the beginning of the line.
func (w *Watch) extend(p []byte) {
	if !w.whole {
		i := bytes.IndexAny(p, "\r\n")
		part := p
		if i >= 0 {
			part, w.whole = p[:i], true
		}
		w.line = append(w.line, part[:min(len(part), maxPanicLine-len(w.line))]...)
	}
	w.since += int64(len(p))
}

// Panicked returns the line by which the kernel said that it panicked, if that was the last that it had to say.
func (w *Watch) Panicked() (line string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.line), w.line != nil && w.since <= panicWindow
}
