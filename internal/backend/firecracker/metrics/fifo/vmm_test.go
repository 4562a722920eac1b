package fifo

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
)

// lineWriter is std::io::LineWriter with a buffer of 1024 bytes, as Rust has it, on a descriptor that does not block.
// What a failed write leaves in its buffer goes out before the next line.
type lineWriter struct {
	fd      int
	buffer  []byte
	flushes int // of the buffer that went well
}

const lineBuffer = 1024

func (w *lineWriter) writeAll(p []byte) error {
	i := bytes.LastIndexByte(p, '\n')
	if i < 0 {
		if n := len(w.buffer); n > 0 && w.buffer[n-1] == '\n' {
			if err := w.flush(); err != nil {
				return err
			}
		}
		return w.hold(p)
	}
	var err error
	if len(w.buffer) == 0 {
		err = w.put(p[:i+1])
	} else if err = w.hold(p[:i+1]); err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	return w.hold(p[i+1:])
}

// hold is BufWriter::write_all.
func (w *lineWriter) hold(p []byte) error {
	spare := lineBuffer - len(w.buffer)
	if len(p) > spare {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(p) >= lineBuffer {
		return w.put(p)
	}
	w.buffer = append(w.buffer, p...)
	return nil
}

func (w *lineWriter) flush() error {
	err := w.put(w.buffer)
	if err == nil {
		w.buffer = w.buffer[:0]
		w.flushes++
	}
	return err
}

// put writes up to PIPE_BUF bytes: all or nothing.
func (w *lineWriter) put(p []byte) error {
	for {
		n, err := unix.Write(w.fd, p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n != len(p) {
			panic("a pipe took a part of PIPE_BUF bytes")
		}
		return err
	}
}

var (
	driveNames = []string{"read_bytes", "write_bytes", "read_count", "write_count", "flush_count",
		"rate_limiter_throttled_events", "io_engine_throttled_events"}
	networkNames = []string{"rx_bytes_count", "tx_bytes_count", "rx_packets_count", "tx_packets_count", "rx_fails",
		"tx_fails", "rx_rate_limiter_throttled", "tx_rate_limiter_throttled"}
	twoAndTwo = metrics.Devices{Drives: []string{"root", "data"}, Networks: []string{"eth0", "eth1"}}
)

// flatten lists the counters of twoAndTwo in the order of vmm.
func flatten(t metrics.Totals) []uint64 {
	var list []uint64
	for _, id := range twoAndTwo.Drives {
		d := t.Drives[id]
		list = append(list, d.ReadBytes, d.WriteBytes, d.ReadCount, d.WriteCount, d.FlushCount, d.RateLimited, d.EngineThrottled)
	}
	for _, id := range twoAndTwo.Networks {
		n := t.Networks[id]
		list = append(list, n.RxBytes, n.TxBytes, n.RxPackets, n.TxPackets, n.RxFails, n.TxFails, n.RxRateLimited, n.TxRateLimited)
	}
	return list
}

// loss is a delta that was handed over in a line that never became whole.
type loss struct {
	at      int64
	counter int
	amount  uint64
}

// vmm is a Firecracker with two drives and two interfaces. It knows the truth, and what it lost when.
type vmm struct {
	out    lineWriter
	random *rand.Rand
	clock  int64 // ms

	truth, said []uint64
	missed      uint64 // not said yet
	failed      []int64
	losses      []loss

	line []loss // handed over in the line that is being written
	err  error

	held   []loss // of a line that is whole, and whose end is in the buffer
	heldAt int    // the writer's flushes then
}

func newVMM(fd int, seed uint64) *vmm {
	n := len(flatten(metrics.Totals{}))
	return &vmm{
		out: lineWriter{fd: fd}, random: rand.New(rand.NewPCG(seed, 7)), clock: 1764000000000,
		truth: make([]uint64, n), said: make([]uint64, n),
	}
}

// tick is 100 ms of work and a flush, and each minute Firecracker's own. It is false if the flush was refused.
func (v *vmm) tick() bool {
	v.clock += 100
	for i := range v.truth {
		if v.random.IntN(3) > 0 {
			v.truth[i] += v.random.Uint64N(1 << v.random.IntN(33))
		}
	}
	if v.clock%60000 == 0 && v.flush() != nil {
		v.missed++
	}
	v.clock++ // a line of its own is not of the same millisecond
	err := v.flush()
	v.clock--
	return err == nil
}

// flush writes one line, in the pieces that serde_json hands over.
func (v *vmm) flush() error {
	v.line, v.err = v.line[:0], nil
	v.text("{")
	v.number("utc_timestamp_ms", uint64(v.clock))
	v.text(",")
	v.filler("api_server", 12)
	v.text(`,"`, "logger", `"`, ":", "{")
	if v.number("missed_metrics_count", v.missed); v.err == nil {
		v.missed = 0
	}
	v.text("}")
	counter := 0
	for _, id := range twoAndTwo.Drives {
		counter = v.device("block_"+id, driveNames, counter)
	}
	v.text(",")
	v.filler("block", 90)
	for _, id := range twoAndTwo.Networks {
		counter = v.device("net_"+id, networkNames, counter)
	}
	v.text(",")
	v.filler("net", 60)
	v.text("}")
	if v.err != nil {
		v.losses = append(v.losses, v.line...) // the object is not whole, and never will be
	}
	whole := v.err == nil
	v.text("\n")
	if v.err != nil {
		v.failed = append(v.failed, v.clock)
		if whole {
			v.held, v.heldAt = append([]loss(nil), v.line...), v.out.flushes
		}
	}
	return v.err
}

// die loses what is in the buffer.
func (v *vmm) die() {
	if v.heldAt == v.out.flushes {
		v.losses = append(v.losses, v.held...)
	}
}

func (v *vmm) text(pieces ...string) {
	for _, p := range pieces {
		if v.err == nil {
			v.err = v.out.writeAll([]byte(p))
		}
	}
}

func (v *vmm) number(name string, n uint64) {
	v.text(`"`, name, `"`, ":", strconv.FormatUint(n, 10))
}

// device writes counters. Each counts as said when the writer took its number.
func (v *vmm) device(key string, names []string, counter int) int {
	v.text(",", `"`, key, `"`, ":", "{")
	for i, name := range names {
		if i > 0 {
			v.text(",")
		}
		amount := v.truth[counter] - v.said[counter]
		if v.number(name, amount); v.err == nil {
			v.said[counter] = v.truth[counter]
			v.line = append(v.line, loss{v.clock, counter, amount})
		}
		counter++
	}
	v.text("}")
	return counter
}

func (v *vmm) filler(key string, n int) {
	v.text(`"`, key, `"`, ":", "{")
	for i := range n {
		if i > 0 {
			v.text(",")
		}
		v.number(fmt.Sprintf("some_event_count_%02d", i), 0)
	}
	v.text("}")
}

// check compares totals with the truth. They are below by exactly what was lost in torn
// lines and never said before the end, and all of it is in gaps.
func (v *vmm) check(t *testing.T, got Totals) {
	t.Helper()
	lost := make([]uint64, len(v.truth))
	for _, l := range v.losses {
		lost[l.counter] += l.amount
		if !covered(got.Gaps, l.at) {
			t.Errorf("what was lost at %d is in no gap", l.at)
		}
	}
	for i, n := range flatten(got.Totals) {
		if n != v.said[i]-lost[i] {
			t.Errorf("counter %d is %d; the truth is %d, of which %d was said and %d of that lost", i, n, v.truth[i], v.said[i], lost[i])
		}
		if v.said[i] < v.truth[i] && (len(got.Gaps) == 0 || !got.Gaps[len(got.Gaps)-1].Before.IsZero()) {
			t.Errorf("counter %d was said up to %d of %d, and there is no gap to the end", i, v.said[i], v.truth[i])
		}
	}
}

func covered(gaps []metrics.Gap, at int64) bool {
	for _, g := range gaps {
		if (g.After.IsZero() || g.After.UnixMilli() < at) && (g.Before.IsZero() || at < g.Before.UnixMilli()) {
			return true
		}
	}
	return false
}
