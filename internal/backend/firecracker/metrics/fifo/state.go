package fifo

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
)

// A file begins with magic, the number of its state (8 bytes), the state's length (4) and the CRC-32C of all that and
// of the state (4), all little endian, and the state, which is JSON. What was moved follows.
const (
	magic      = "mdfifo1\n"
	headerSize = len(magic) + 8 + 4 + 4
	// maxState is far above a state with the begin of a line of 1 MiB in it.
	maxState = 4 << 20
)

// state is what the totals were when a file came into use.
type state struct {
	Partial bool          `json:"partial,omitempty"`
	Ended   bool          `json:"ended,omitempty"`
	Decoder metrics.State `json:"decoder"`
}

var (
	errNone    = errors.New("no state")                       // or one that was never whole, and not in use
	errDamaged = errors.New("a state that something damaged") // it may have been in use
)

// step is one after which a metald may end.
type step int

const (
	moving step = iota
	decoding
	emptying
	writing
)

// checkpoint empties the file that is not in use, writes the state of now to it, and uses it.
func (c *Collector) checkpoint() error {
	c.owed = true
	if err := c.feed(); err != nil {
		return err
	}
	other := c.halves[1-c.current]
	if err := other.Truncate(0); err != nil {
		return err
	}
	c.after(emptying)
	if err := c.encode(); err != nil {
		return err
	}
	if _, err := other.WriteAt(c.scratch, 0); err != nil {
		return err
	}
	c.after(writing)
	c.current, c.seq, c.owed = 1-c.current, c.seq+1, false
	c.base = int64(len(c.scratch))
	c.fed, c.end = c.base, c.base
	return nil
}

// encode makes the front of the next file.
func (c *Collector) encode() error {
	text, err := json.Marshal(state{Partial: c.partial, Ended: c.ended, Decoder: c.decoder.State()})
	if err != nil {
		return err
	}
	b := append(c.scratch[:0], magic...)
	b = binary.LittleEndian.AppendUint64(b, c.seq+1)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, 0, 0, 0, 0)
	b = append(b, text...)
	binary.LittleEndian.PutUint32(b[headerSize-4:], checksum(b))
	c.scratch = b
	return nil
}

// checksum is over everything but itself.
func checksum(front []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(front[:headerSize-4], table), table, front[headerSize:])
}

// half is what a file holds.
type half struct {
	seq       uint64
	base, end int64
	state     state
	err       error // errNone, errDamaged, nil
}

// readHalf returns an error if the file can't be read.
func readHalf(f *os.File) (half, error) {
	info, err := f.Stat()
	if err != nil {
		return half{}, err
	}
	h := half{end: info.Size()}
	if h.end < int64(headerSize) {
		return half{err: errNone}, nil
	}
	header := make([]byte, headerSize)
	if _, err := f.ReadAt(header, 0); err != nil {
		return half{}, err
	}
	length := int64(binary.LittleEndian.Uint32(header[len(magic)+8:]))
	h.base = int64(headerSize) + length
	switch {
	case string(header[:len(magic)]) != magic || length > maxState:
		return half{err: errDamaged}, nil
	case h.base > h.end:
		return half{err: errNone}, nil
	}
	front := make([]byte, h.base)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, h.base), front); err != nil {
		return half{}, err
	}
	h.seq = binary.LittleEndian.Uint64(header[len(magic):])
	if checksum(front) != binary.LittleEndian.Uint32(header[headerSize-4:]) || json.Unmarshal(front[headerSize:], &h.state) != nil {
		h.err = errDamaged
	}
	return h, nil
}

// restore continues the newer of the two states.
func (c *Collector) restore(devices metrics.Devices) error {
	var halves [2]half
	for i, f := range c.halves {
		h, err := readHalf(f)
		if err != nil {
			return err
		}
		halves[i] = h
	}
	if halves[0].err != nil || halves[1].err == nil && halves[1].seq > halves[0].seq {
		c.current = 1
	}
	h, other := halves[c.current], halves[1-c.current]
	if h.err != nil {
		return c.begin(devices, fmt.Errorf("metrics.0: %w; metrics.1: %w", halves[0].err, halves[1].err))
	}
	decoder, err := metrics.Restore(devices, h.state.Decoder, true)
	if err != nil {
		return c.begin(devices, err)
	}
	c.decoder, c.partial, c.ended = decoder, h.state.Partial, h.state.Ended
	c.seq, c.base, c.fed, c.end = h.seq, h.base, h.base, h.end
	if err := c.feed(); err != nil || !errors.Is(other.err, errDamaged) {
		return err
	}
	c.doubt = fmt.Errorf("metrics.%d: %w", 1-c.current, other.err)
	c.decoder.Lost()
	return c.checkpoint()
}

// begin starts in the middle.
func (c *Collector) begin(devices metrics.Devices, doubt error) (err error) {
	if c.decoder, err = metrics.New(devices); err != nil {
		return err
	}
	c.decoder.Lost()
	c.doubt, c.partial = doubt, true
	return c.checkpoint()
}
