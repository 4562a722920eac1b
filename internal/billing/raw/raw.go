// Package raw keeps batches as they came, in files that are only ever appended to: evidence, and what the ledger can be
// made of again. A segment is a sequence of frames: length (4 bytes, little endian), CRC-32C of the content (4 bytes,
// little endian), content. A full segment is sealed: compressed with zstd, named by its number, beside a file with its
// SHA-256.
package raw

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	header   = 8
	maxFrame = 16 << 20
	openName = "open.seg"
	sealed   = ".seg.zst"
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Log is a directory of segments. It is safe for concurrent use.
type Log struct {
	dir   string
	limit int64 // bytes of a segment before it is sealed
	last  []byte

	mu    sync.Mutex
	file  file
	size  int64
	again int64 // size at which sealing is tried again, after it failed
	next  int   // number of the segment that is open
	err   error
}

// file is what an open segment needs of an os.File.
type file interface {
	io.WriteSeeker
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Open opens the log in dir, which it makes where it is missing. A frame that was torn off the open segment by a crash
// is set aside: it was never acknowledged.
func Open(dir string, limit int64) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := sealedNames(dir)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, limit: limit, next: len(names)}
	keep := func(content []byte) error { l.last = content; return nil }
	if len(names) > 0 {
		content, err := unseal(dir, names[len(names)-1])
		if err != nil {
			return nil, err
		}
		frames(content, &keep)
	}
	return l, l.open(&keep)
}

func (l *Log) open(keep *func([]byte) error) error {
	path := filepath.Join(l.dir, openName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	content, err := io.ReadAll(file)
	if err == nil {
		rest := frames(content, keep)
		l.size = int64(len(content) - len(rest))
		err = l.setAside(rest)
	}
	if err == nil {
		err = errors.Join(file.Truncate(l.size), syncDir(l.dir))
	}
	if err == nil {
		_, err = file.Seek(l.size, io.SeekStart)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("raw batches in %s: %w", path, err), file.Close())
	}
	l.file = file
	return nil
}

// setAside keeps what is no frame at the end of the open segment, for people: most likely it was torn off by a crash, and
// if the disk did it, what follows may be evidence.
func (l *Log) setAside(rest []byte) error {
	if len(bytes.Trim(rest, "\x00")) == 0 {
		return nil
	}
	return writeSynced(filepath.Join(l.dir, fmt.Sprintf("torn-%010d-%d.bin", l.next, l.size)), rest)
}

// Append keeps content for good: it is on the disk when Append returns nil. After a sync that did not succeed every
// Append fails: what a second one says is not to be believed.
func (l *Log) Append(content []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if len(content) == 0 || len(content) > maxFrame {
		return fmt.Errorf("a raw record of %d bytes; at least 1 and at most %d may be", len(content), maxFrame)
	}
	frame := binary.LittleEndian.AppendUint32(nil, uint32(len(content)))
	frame = binary.LittleEndian.AppendUint32(frame, crc32.Checksum(content, castagnoli()))
	if _, err := l.file.Write(append(frame, content...)); err != nil {
		return l.undo(err)
	}
	err := l.file.Sync()
	if err == nil {
		l.size += int64(header + len(content))
		if l.size >= max(l.limit, l.again) && l.seal() != nil {
			l.again = l.size + l.limit/16 // what is kept is kept: the segment grows until there is room for the sealed one
		}
	}
	if err != nil {
		l.err = l.wrap(err)
	}
	return l.err
}

// undo takes back what was written of a frame, on a disk that is full. Nothing was synced, so the file can go on.
func (l *Log) undo(err error) error {
	_, seekErr := l.file.Seek(l.size, io.SeekStart)
	if undo := errors.Join(l.file.Truncate(l.size), seekErr); undo != nil {
		l.err = l.wrap(errors.Join(err, undo))
	}
	return l.wrap(err)
}

func (l *Log) wrap(err error) error { return fmt.Errorf("keep raw batches in %s: %w", l.dir, err) }

// Last is the last record that an earlier process kept; nil if there is none. Whether more than that came of it is not
// known.
func (l *Log) Last() []byte { return l.last }

// seal compresses the open segment. A crash in between leaves it open, or sealed and open: then it is read twice,
// which changes nothing.
func (l *Log) seal() error {
	content, err := os.ReadFile(filepath.Join(l.dir, openName))
	if err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := enc.EncodeAll(content, nil)
	name := fmt.Sprintf("%010d%s", l.next, sealed)
	sum := sha256.Sum256(packed)
	line := hex.EncodeToString(sum[:]) + "  " + name + "\n"
	if err := writeSynced(filepath.Join(l.dir, name+".sha256"), []byte(line)); err != nil {
		return err // no segment without its seal
	}
	if err := errors.Join(writeSynced(filepath.Join(l.dir, name), packed), syncDir(l.dir)); err != nil {
		return err
	}
	l.next++
	if err := l.file.Truncate(0); err != nil {
		return err // sealed and open: read twice, which changes nothing
	}
	_, err = l.file.Seek(0, io.SeekStart)
	l.size, l.again = 0, 0
	if err = errors.Join(err, l.file.Sync()); err != nil {
		l.err = l.wrap(err)
	}
	return err
}

// Close closes the log.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
