package fifo

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
)

// A file begins with magic, the number of its state (8 bytes), the state's length (4) and the CRC-32C of all that and
// of the state (4), all little endian, and the state, which is JSON. What was moved follows.
const (
	magic      = "mdfifo1\n"
	headerSize = len(magic) + 8 + 4 + 4
	// maxState is far above a state with the begin of a line of 1 MiB in it.
	maxState = 4 << 20
	// keepScratch is how much of the buffer for states is kept.
	keepScratch = 64 << 10
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
	marking
)

// checkpoint empties the file that is not in use, writes the state of now to it, and uses it.
func (c *Collector) checkpoint() error {
	c.owed = true
	if err := c.feed(); err != nil {
		return err
	}
	other, err := c.half(1 - c.current)
	if err != nil {
		return err
	}
	if err := other.Truncate(0); err != nil {
		return err
	}
	c.after(emptying)
	c.encode()
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
func (c *Collector) encode() {
	b := c.scratch[:0]
	if cap(b) > keepScratch {
		b = nil
	}
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint64(b, c.seq+1)
	b = append(b, make([]byte, 8)...)
	b = append(b, `{"partial":`...)
	b = strconv.AppendBool(b, c.partial)
	b = append(b, `,"ended":`...)
	b = strconv.AppendBool(b, c.ended)
	b = append(b, `,"decoder":`...)
	b = append(c.decoder.AppendState(b), '}')
	binary.LittleEndian.PutUint32(b[headerSize-8:], uint32(len(b)-headerSize))
	binary.LittleEndian.PutUint32(b[headerSize-4:], checksum(b))
	c.scratch = b
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
	if checksum(front) != binary.LittleEndian.Uint32(header[headerSize-4:]) || json.Unmarshal(front[headerSize:], &h.state) != nil {
		return half{err: errDamaged}, nil
	}
	h.seq = binary.LittleEndian.Uint64(header[len(magic):])
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
	c.seq = max(h.seq, other.seq)
	if h.err != nil {
		return c.begin(devices, fmt.Errorf("metrics.0: %w; metrics.1: %w", halves[0].err, halves[1].err))
	}
	decoder, err := metrics.Restore(devices, h.state.Decoder, true)
	if err != nil {
		return c.begin(devices, err)
	}
	c.decoder, c.partial, c.ended = decoder, h.state.Partial, h.state.Ended
	c.base, c.fed, c.end = h.base, h.base, h.end
	if errors.Is(other.err, errDamaged) && !c.ended { // nothing comes after the end
		return c.gapped(fmt.Errorf("metrics.%d: %w", 1-c.current, other.err))
	}
	return c.feed()
}

// begin starts in the middle.
func (c *Collector) begin(devices metrics.Devices, doubt error) (err error) {
	if c.decoder, err = metrics.New(devices); err != nil {
		return err
	}
	c.decoder.Lost()
	c.doubt, c.partial = doubt, true
	return c.renew()
}

// broken is a line of ours that no Decoder can read.
const broken = "\n!\n"

// gapped has what follows marked as incomplete by a line that can't be read, and then removes the reason. In any other
// order a metald that ends in between would know neither.
func (c *Collector) gapped(doubt error) error {
	c.doubt = doubt
	if _, err := c.halves[c.current].WriteAt([]byte(broken), c.end); err != nil {
		return err
	}
	c.end += int64(len(broken))
	c.after(marking)
	return c.renew()
}

// renew leaves nothing of what was there but the state of now.
func (c *Collector) renew() error {
	if err := c.checkpoint(); err != nil {
		return err
	}
	err := c.halves[1-c.current].Truncate(0)
	c.after(emptying)
	return err
}
