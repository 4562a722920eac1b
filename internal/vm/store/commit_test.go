package store

import (
	"errors"
	"runtime"
	"testing"
)

// A fault in the middle of a commit must not look like success to those who share it.
func TestCommitThatPanics(t *testing.T) {
	b := &Bolt{} // has no database: the commit panics
	b.commitMu.Lock()
	outcomes := make(chan error, 4)
	for range cap(outcomes) {
		go func() {
			err := errors.New("never returned")
			defer func() {
				_ = recover()
				outcomes <- err
			}()
			err = b.Put(Record{ID: "vm"})
		}()
	}
	for waiting := 0; waiting < cap(outcomes); {
		b.mu.Lock()
		waiting = len(b.pending)
		b.mu.Unlock()
		runtime.Gosched()
	}
	b.commitMu.Unlock()
	for range cap(outcomes) {
		if err := <-outcomes; err == nil {
			t.Error("a record that was never written was acknowledged")
		}
	}
}
