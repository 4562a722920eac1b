package metrics

import (
	"fmt"
	"time"
)

// stateVersion changes when a State of before can't be continued.
const stateVersion = 1

// State is a Decoder between two runs of metald. It is JSON.
type State struct {
	Version  int                          `json:"version"`
	At       time.Time                    `json:"at"`
	Lines    uint64                       `json:"lines"`
	Counters map[string]map[string]uint64 `json:"counters"` // by the objects and names of Firecracker's lines
	Unread   Unread                       `json:"unread"`
	Unknown  uint64                       `json:"unknown,omitempty"`
	Gaps     []Gap                        `json:"gaps,omitempty"`
	Open     Gap                          `json:"open"` // not ended yet
	Pending  []byte                       `json:"pending,omitempty"`
	Skipped  int                          `json:"skipped,omitempty"` // bytes of an overlong line whose end did not come
}

// State returns a copy of everything that Restore needs.
func (d *Decoder) State() State {
	s := State{
		Version: stateVersion, At: d.at, Lines: d.lines, Unread: d.unread, Unknown: d.others,
		Counters: map[string]map[string]uint64{}, Gaps: append([]Gap(nil), d.gaps...), Open: d.open,
		Pending: append([]byte(nil), d.pending...), Skipped: d.skipped,
	}
	for _, g := range d.groups {
		if g.known != 0 {
			s.Counters[g.key] = g.counters()
		}
	}
	return s
}

// Restore continues a State. contiguous says that nothing was read from the stream since the State was taken; if not,
// what was read is missing, and a gap says so.
func Restore(devices Devices, s State, contiguous bool) (*Decoder, error) {
	if s.Version != stateVersion {
		return nil, fmt.Errorf("metrics state of version %d: this metald knows version %d", s.Version, stateVersion)
	}
	d, err := New(devices)
	if err != nil {
		return nil, err
	}
	for key, counters := range s.Counters {
		if err := d.restore(key, counters); err != nil {
			return nil, fmt.Errorf("metrics state: %w", err)
		}
	}
	d.at, d.lines, d.others, d.unread = s.At, s.Lines, s.Unknown, s.Unread
	d.gaps, d.open = append([]Gap(nil), s.Gaps...), s.Open
	if !contiguous {
		d.Lost()
		return d, nil
	}
	d.skipping, d.skipped = s.Skipped > 0, s.Skipped
	if !d.skipping {
		d.Feed(s.Pending)
	}
	return d, nil
}

func (d *Decoder) restore(key string, counters map[string]uint64) error {
	g := d.byKey[key]
	if g == nil {
		return fmt.Errorf("%q is no device of this VM", key)
	}
	for name, n := range counters {
		i := g.field([]byte(name))
		if i < 0 {
			return fmt.Errorf("%q has no counter %q", key, name)
		}
		g.total[i] = n
		g.known |= 1 << i
	}
	return nil
}

// counters is what is known, by name.
func (g *group) counters() map[string]uint64 {
	known := map[string]uint64{}
	for i, f := range g.fields {
		if g.known&(1<<i) != 0 {
			known[f.name] = g.total[i]
		}
	}
	return known
}
