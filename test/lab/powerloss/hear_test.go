package powerloss

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"
)

// ear takes what a host says.
type ear struct {
	began time.Time

	mu     sync.Mutex
	rest   []byte
	words  []Word
	offset int64 // the least by which this machine's clock, since began, was ahead of the host's in a word
	news   chan struct{}
}

func newEar() *ear { return &ear{began: time.Now(), news: make(chan struct{}, 1)} }

// Write is for the output of a command.
func (e *ear) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rest = append(e.rest, p...)
	for {
		line, rest, whole := bytes.Cut(e.rest, []byte("\n"))
		if !whole {
			break
		}
		e.rest = rest
		var w Word
		if err := json.Unmarshal(line, &w); err != nil {
			w.Failed = string(line)
		}
		if ahead := int64(time.Since(e.began)) - w.Mono; w.Mono > 0 && (len(e.words) == 0 || ahead < e.offset) {
			e.offset = ahead
		}
		e.words = append(e.words, w)
	}
	select {
	case e.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

// heard returns what was said so far, and what the host's clock shows now at most.
func (e *ear) heard() (words []Word, now int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.words, int64(time.Since(e.began)) - e.offset
}
