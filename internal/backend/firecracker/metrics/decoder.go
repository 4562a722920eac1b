package metrics

import (
	"bytes"
	"fmt"
	"time"
)

const (
	// maxLine is how long a line may be. One drive and one interface make about 6 KiB, each device more 0.7 KiB.
	maxLine = 1 << 20
	// keepBuffer is how much of the buffer for unfinished lines is kept between lines.
	keepBuffer = 64 << 10
)

// Devices are the ids of the devices whose counters are wanted, as Firecracker was given them.
type Devices struct {
	Drives   []string
	Networks []string
}

// Unread counts what of the stream could not be read.
type Unread struct {
	Pieces uint64 `json:"pieces,omitempty"` // lines, and parts of lines that were glued together
	Bytes  uint64 `json:"bytes,omitempty"`
	Last   string `json:"last,omitempty"` // what was wrong with the last one, for people
}

// Decoder adds up the stream of one Firecracker process. It is for one goroutine at a time.
type Decoder struct {
	groups []*group
	byKey  map[string]*group

	at     time.Time // of the last good line
	lines  uint64
	others uint64
	unread Unread
	open   Gap // what is missing since the last good line; its times are not set yet
	gaps   []Gap

	pending  []byte // the begin of a line whose end did not come yet
	skipping bool   // the line is too long, and its end did not come yet
	skipped  int    // bytes of it so far
}

// New returns a Decoder for the stream of a Firecracker that just started.
func New(devices Devices) (*Decoder, error) {
	d := &Decoder{byKey: map[string]*group{}}
	for key, list := range vmmFields() {
		d.add(newGroup(key, false, list))
	}
	for _, id := range devices.Drives {
		if err := d.addDevice(drivePrefix, id, driveFields()); err != nil {
			return nil, fmt.Errorf("drive %w", err)
		}
	}
	for _, id := range devices.Networks {
		if err := d.addDevice(networkPrefix, id, networkFields()); err != nil {
			return nil, fmt.Errorf("network interface %w", err)
		}
	}
	return d, nil
}

func (d *Decoder) add(g *group) {
	d.groups = append(d.groups, g)
	d.byKey[g.key] = g
}

func (d *Decoder) addDevice(prefix, id string, list []field) error {
	if !validID(id) {
		return fmt.Errorf("%q: an id has letters, digits and underscores, and at least one", id)
	}
	if d.byKey[prefix+id] != nil {
		return fmt.Errorf("%q is there twice", id)
	}
	d.add(newGroup(prefix+id, true, list))
	return nil
}

// validID is narrower than Firecracker's rule, which has the letters of all alphabets.
func validID(id string) bool {
	for _, c := range []byte(id) {
		if c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return id != ""
}

// Feed takes the next bytes of the stream, cut anywhere. It keeps nothing of p.
func (d *Decoder) Feed(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			d.hold(p)
			return
		}
		d.endLine(p[:i])
		p = p[i+1:]
	}
}

// End takes the end of the stream: Firecracker closed it. A last line that is whole counts even without its end.
func (d *Decoder) End() {
	d.endLine(nil)
	if d.InGap() {
		d.closeGap(time.Time{})
	}
}

func (d *Decoder) hold(p []byte) {
	switch {
	case d.skipping:
		d.skipped += len(p)
	case len(d.pending)+len(p) > maxLine:
		d.skipping, d.skipped = true, len(d.pending)+len(p)
		d.pending = nil
	default:
		d.pending = append(d.pending, p...)
	}
}

// endLine takes the last bytes of a line.
func (d *Decoder) endLine(p []byte) {
	if len(d.pending) == 0 && !d.skipping && len(p) <= maxLine {
		d.line(p)
		return
	}
	d.hold(p)
	if d.skipping {
		d.lost(d.skipped, errTooLong)
		d.skipping, d.skipped = false, 0
		return
	}
	d.line(d.pending)
	d.pending = d.pending[:0]
	if cap(d.pending) > keepBuffer {
		d.pending = nil
	}
}
