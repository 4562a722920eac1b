// Package console keeps what guests write to their consoles: a bounded log on disk per VM, one goroutine that
// drains all of them, and readers that follow without ever slowing a guest.
package console

import (
	"context"
	"io"
	"os"
)

// Log is the console of one VM on disk: the newest bytes, up to a bound. It is safe for concurrent use.
type Log struct{}

// Open returns the log in dir, going on where an earlier metald stopped. Nothing is made on disk before the
// first Write. capacity is in bytes; at least capacity/2 of the newest output is kept.
func Open(dir string, capacity int64) (*Log, error) { panic("unwritten") }

// Write appends guest output. It never fails towards the guest: an error of the disk is counted and told to
// readers as lost bytes.
func (l *Log) Write(p []byte) (int, error) { panic("unwritten") }

// Note appends a line of metald's own, such as that output was not observed for a while.
func (l *Log) Note(text string) { panic("unwritten") }

// Tail returns up to n of the newest bytes.
func (l *Log) Tail(n int64) ([]byte, error) { panic("unwritten") }

// Close ends every follower with io.EOF.
func (l *Log) Close() error { panic("unwritten") }

// Chunk is a run of console bytes. Offset counts from the first byte the VM ever wrote; Lost bytes before it
// were dropped because the reader was too slow or the log is bounded.
type Chunk struct {
	Offset int64
	Lost   int64
	Bytes  []byte
}

// Reader reads a Log from some point on.
type Reader struct{}

// Reader starts tail bytes before the end (tail < 0: at the oldest byte kept).
func (l *Log) Reader(tail int64) *Reader { panic("unwritten") }

// Next returns the next chunk. At the end it returns io.EOF, or, with follow, waits for more until ctx ends or
// the log is closed.
func (r *Reader) Next(ctx context.Context, follow bool) (Chunk, error) { panic("unwritten") }

// Drainer reads every guest's console as it comes: one goroutine, one epoll.
type Drainer struct{}

// NewDrainer returns a Drainer; it drains while Run runs.
func NewDrainer() (*Drainer, error) { panic("unwritten") }

// Run drains until ctx ends.
func (d *Drainer) Run(ctx context.Context) error { panic("unwritten") }

// Source is one console being drained.
type Source struct{}

// Add drains f, which it owns from now on, into w until end of file or Close.
func (d *Drainer) Add(f *os.File, w io.Writer) (*Source, error) { panic("unwritten") }

// Drained is closed when everything up to end of file was written to w, or after Close.
func (s *Source) Drained() <-chan struct{} { panic("unwritten") }

// Close stops draining and closes the file. Repeatable.
func (s *Source) Close() error { panic("unwritten") }
