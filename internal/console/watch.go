package console

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// What Linux says last on its console, when it panicked and when it has no way to switch the machine off. Both are
// messages of the highest level, which no setting of the guest's hides but that of having no console.
const (
	panicWords = "Kernel panic - not syncing"
	offWords   = "reboot: Power down"
	haltWords  = "System halted"
)

// lastWindow is how much a kernel may still print after such a line and be thought dead by it: the trace of one CPU
// takes about 2 KiB.
const lastWindow = 16 << 10

// maxLastLine bounds what is kept of the line.
const maxLastLine = 160

// Watch passes a guest's console on and notes whether its kernel panicked or is off: no VMM can tell a panic that
// reboots from a reboot, and not every VMM notices that a guest is off. It is safe for concurrent use once Out is set.
type Watch struct {
	Out io.Writer // nil discards

	mu    sync.Mutex
	panic phrase
	off   phrase
	halt  phrase
}

// Write never fails towards the guest.
func (w *Watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.panic.note(panicWords, p)
	w.off.note(offWords, p)
	w.halt.note(haltWords, p)
	w.mu.Unlock()
	if w.Out != nil {
		_, _ = w.Out.Write(p) // the log counts what it loses
	}
	return len(p), nil
}

// Panicked returns the line by which the kernel said that it panicked, if that was the last that it had to say.
func (w *Watch) Panicked() (line string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Where nothing restarts it, Linux ends the trace with the same words: ---[ end Kernel panic - not syncing: why ]---
	return strings.TrimSuffix(string(w.panic.line), " ]---"), w.panic.last()
}

// PoweredOff says whether the last that the kernel had to say was that it powered off or halted.
func (w *Watch) PoweredOff() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.off.last() || w.halt.last()
}

// phrase looks for words in a stream, however it is cut.
type phrase struct {
	seam  []byte // the end of the last write, where the words may have begun
	line  []byte // the last line with the words, from there on, until it is complete; nil if there was none
	whole bool   // line is complete
	since int64  // bytes after it
}

func (f *phrase) note(words string, p []byte) {
	seamed := append(f.seam, p[:min(len(p), len(words)-1)]...)
	if i := bytes.LastIndex(p, []byte(words)); i >= 0 {
		f.begin()
		f.extend(p[i:])
	} else if i := bytes.Index(seamed, []byte(words)); i >= 0 {
		f.begin()
		f.extend(f.seam[i:])
		f.extend(p)
	} else if f.line != nil {
		f.extend(p)
	}
	if len(p) < len(words) {
		p = append(f.seam, p...)
	}
	f.seam = append(f.seam[:0:0], p[max(0, len(p)-len(words)+1):]...)
}

func (f *phrase) begin() { f.line, f.whole, f.since = []byte{}, false, 0 }

// extend takes what follows the beginning of the line.
func (f *phrase) extend(p []byte) {
	if !f.whole {
		i := bytes.IndexAny(p, "\r\n")
		part := p
		if i >= 0 {
			part, f.whole = p[:i], true
		}
		f.line = append(f.line, part[:min(len(part), maxLastLine-len(f.line))]...)
	}
	f.since += int64(len(p))
}

// last says whether the words came, and little after them.
func (f *phrase) last() bool { return f.line != nil && f.since <= lastWindow }
