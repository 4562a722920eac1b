package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
)

// The ack file has two slots, in different blocks. Each is written in turn, so that a torn write costs the slot that
// was being written and the other one has the acknowledgement before. The one with the higher generation holds.
//
//	 0  8B   magic
//	 8  u64  generation
//	16  u64  number of the last record that was acknowledged
//	24  u32  CRC-32C of all before
const (
	ackName  = "ack"
	ackMagic = "mdack01\n"
	ackSize  = 28
	ackSlot  = 4096
)

type acks struct {
	mu   sync.Mutex // guards seq
	seq  uint64
	turn sync.Mutex // held by who writes
	dir  Dir
	file File // nil after an error: another one is made
	gen  uint64
}

func (a *acks) get() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seq
}

// open reads the file, if it is there.
func (a *acks) open(dir Dir) error {
	a.dir = dir
	f, err := dir.Open(ackName)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	a.file = f
	a.gen, a.seq = readAcks(f)
	return nil
}

// readAcks returns what the newer whole slot says; zeros if none is whole.
func readAcks(f File) (gen, seq uint64) {
	for slot := range int64(2) {
		var b [ackSize]byte
		if _, err := f.ReadAt(b[:], slot*ackSlot); err != nil || string(b[:8]) != ackMagic {
			continue
		}
		if binary.LittleEndian.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli()) {
			continue
		}
		if g := binary.LittleEndian.Uint64(b[8:]); g > gen {
			gen, seq = g, binary.LittleEndian.Uint64(b[16:])
		}
	}
	return gen, seq
}

func (a *acks) set(seq uint64) error {
	a.turn.Lock()
	defer a.turn.Unlock()
	if seq <= a.get() {
		return nil
	}
	if err := a.write(seq); err != nil {
		return fmt.Errorf("acknowledge %d: %w", seq, err)
	}
	a.mu.Lock()
	a.seq = seq
	a.mu.Unlock()
	return nil
}

// again writes the last acknowledgement once more: the process before may have ended before it was durable.
func (a *acks) again() error {
	a.turn.Lock()
	defer a.turn.Unlock()
	return a.write(a.get())
}

// write uses a file no more once it could not be written or synced.
func (a *acks) write(seq uint64) error {
	a.gen++
	slot := ackSlotOf(a.gen, seq)
	if a.file != nil {
		err := put(a.file, slot, int64(a.gen%2)*ackSlot)
		if err == nil {
			return nil
		}
		a.file.Close()
		a.file = nil
	}
	return a.replace(slot)
}

func (a *acks) replace(slot []byte) error {
	const name = ackName + passing
	a.dir.Remove(name)
	f, err := a.dir.Create(name)
	if err != nil {
		return err
	}
	if err = f.Allocate(2 * ackSlot); err == nil {
		err = put(f, slot, int64(a.gen%2)*ackSlot)
	}
	if err == nil {
		err = a.dir.Rename(name, ackName)
	}
	if err == nil {
		err = a.dir.Sync()
	}
	if err != nil {
		f.Close()
		return err
	}
	a.file = f
	return nil
}

func put(f File, b []byte, at int64) error {
	if err := writeAll(f, b, at); err != nil {
		return err
	}
	return f.Sync()
}

func ackSlotOf(gen, seq uint64) []byte {
	b := append(make([]byte, 0, ackSize), ackMagic...)
	b = binary.LittleEndian.AppendUint64(b, gen)
	b = binary.LittleEndian.AppendUint64(b, seq)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

func (a *acks) close() {
	a.turn.Lock()
	defer a.turn.Unlock()
	if a.file != nil {
		a.file.Close()
		a.file = nil
	}
}

// Ack says that the records up to seq are somewhere else for good. It returns when that is durable; then the segments
// with nothing later are removed.
func (l *Log) Ack(seq uint64) error {
	l.mu.Lock()
	durable := l.durable
	l.mu.Unlock()
	if seq > durable {
		return fmt.Errorf("acknowledge %d: only %d is durable", seq, durable)
	}
	if err := l.acks.set(seq); err != nil {
		return err
	}
	return l.truncate(seq)
}

// truncate removes segments all of whose records are below or at seq. The last one stays: it has the head of the chain.
func (l *Log) truncate(seq uint64) error {
	l.mu.Lock()
	var keep, gone []segment
	for i, s := range l.segments {
		if l.spent(i) <= seq {
			gone = append(gone, s)
		} else {
			keep = append(keep, s)
		}
	}
	l.segments = keep
	l.mu.Unlock()
	var err error
	for i := range gone {
		if e := l.dir.Remove(gone[i].name()); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// spent is the number whose acknowledgement makes a segment useless. Final records go with the segment that others of
// their numbers would be in. The caller holds mu.
func (l *Log) spent(i int) uint64 {
	s := l.segments[i]
	if s.growing || i == newest(l.segments) {
		return ^uint64(0)
	}
	if !s.finals {
		return limit(l.segments, i)
	}
	best := ^uint64(0)
	for k := range newest(l.segments) {
		if last := limit(l.segments, k); !l.segments[k].finals && last >= s.through {
			best = min(best, last)
		}
	}
	return best
}
