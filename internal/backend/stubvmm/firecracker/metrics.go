package firecracker

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// metrics are Firecracker's counters and where they are written.
type metrics struct {
	mu     sync.Mutex // guards all below
	order  []string
	groups map[string]*group            // by name
	kinds  map[string]map[string]*group // devices, by kind and name
	sink   *lineWriter                  // nil without
	truth  func(*metrics, bool)         // nil without: told of each line, and whether it was taken
}

// group is an object of counters.
type group struct {
	fields []*field
	byName map[string]*field
}

// field is a counter, of which a line has what came since it was last handed to the writer; or a stored value; or an
// aggregate, which is a group.
type field struct {
	name         string
	value, taken uint64
	stored       bool
	times        *group
}

func newGroup(names string) *group {
	g := &group{byName: map[string]*field{}}
	for _, name := range strings.Fields(names) {
		f := &field{name: strings.TrimRight(name, "=*"), stored: strings.HasSuffix(name, "=")}
		if strings.HasSuffix(name, "*") {
			f.times = newGroup("min_us= max_us= sum_us")
		}
		g.fields = append(g.fields, f)
		g.byName[f.name] = f
	}
	return g
}

func newMetrics() *metrics {
	m := &metrics{groups: map[string]*group{}, kinds: map[string]map[string]*group{}}
	for _, g := range groups {
		m.order = append(m.order, g[0])
		if kind, ok := strings.CutPrefix(g[0], "["); ok {
			m.kinds[strings.TrimSuffix(kind, "]")] = map[string]*group{}
			continue
		}
		m.groups[g[0]] = newGroup(g[1])
	}
	return m
}

// device makes the counters of a device. One that was there before goes on with its own.
func (m *metrics) device(kind, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kinds[kind][id] != nil {
		return
	}
	for _, g := range groups {
		if g[0] == "["+kind+"]" {
			m.kinds[kind][id] = newGroup(g[1])
		}
	}
}

// add counts; what is a "group.field".
func (m *metrics) add(what string, n uint64) {
	name, field, _ := strings.Cut(what, ".")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups[name].byName[field].value += n
}

func (m *metrics) inc(what string) { m.add(what, 1) }

// set stores.
func (m *metrics) set(what string, n uint64) {
	name, field, _ := strings.Cut(what, ".")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups[name].byName[field].value = n
}

// count adds to several counters of a device at once: no line has one of them without the others.
func (m *metrics) count(kind, id string, n map[string]uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.kinds[kind][id]
	for name, more := range n {
		g.byName[name].value += more
	}
}

// open says where lines go. It works once.
func (m *metrics) open(path string) error {
	fd, err := openNonblock(path)
	if err != nil {
		return says("Cannot initialize the metrics system due to bad user input: %s", rust.IOError(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sink != nil {
		closeFD(fd)
		return says("Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.")
	}
	m.sink = newLineWriter(func(b []byte) (int, error) { return writeFD(fd, b) })
	return nil
}

// write writes a line. An error leaves what was handed to the writer up to then counted as written, and the rest for
// the next line. Without a sink there is nothing to write, and no error.
func (m *metrics) write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sink == nil {
		return nil
	}
	err := m.line(m.sink)
	if err != nil {
		err = says("%s", rust.IOError(err))
	} else if err = m.sink.newline(); err != nil {
		err = says("Failed to write metrics: %s", rust.IOError(err))
	}
	if m.truth != nil {
		m.truth(m, err == nil)
	}
	return err
}

// line is called with mu held.
func (m *metrics) line(w *lineWriter) error {
	o := object{w: w}
	o.begin()
	o.key("utc_timestamp_ms")
	o.number(uint64(time.Now().UnixMilli()))
	for _, name := range m.order {
		kind, devices := strings.CutPrefix(name, "[")
		if !devices {
			o.key(name)
			o.group(m.groups[name])
			continue
		}
		m.devices(&o, strings.TrimSuffix(kind, "]"))
	}
	o.end()
	return o.err
}

// devices writes those of a kind, and their sum, which is of the same deltas.
func (m *metrics) devices(o *object, kind string) {
	var sum *group
	for _, g := range groups {
		if g[0] == "["+kind+"]" {
			sum = newGroup(g[1])
		}
	}
	all := m.kinds[kind]
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if o.err != nil {
			return
		}
		sum.aggregate(all[id])
		o.key(kind + "_" + id)
		o.group(all[id])
	}
	o.key(kind)
	o.group(sum)
}

func (g *group) aggregate(other *group) {
	for i, f := range other.fields {
		switch {
		case f.times != nil:
			g.fields[i].times.aggregate(f.times)
		case !f.stored:
			g.fields[i].value += f.value - f.taken
		}
	}
}

// object writes JSON in the pieces in which serde_json does, and stops at the first error.
type object struct {
	w     *lineWriter
	first bool
	err   error
}

func (o *object) piece(s string) {
	if o.err == nil {
		o.err = o.w.write(s)
	}
}

func (o *object) begin() { o.piece("{"); o.first = true }
func (o *object) end()   { o.piece("}"); o.first = false }

func (o *object) key(name string) {
	if !o.first {
		o.piece(",")
	}
	o.first = false
	o.piece(`"`)
	o.piece(name)
	o.piece(`"`)
	o.piece(":")
}

func (o *object) number(n uint64) { o.piece(strconv.FormatUint(n, 10)) }

func (o *object) group(g *group) {
	o.begin()
	for _, f := range g.fields {
		o.key(f.name)
		switch {
		case f.times != nil:
			o.group(f.times)
		case f.stored:
			o.number(f.value)
		default:
			o.number(f.value - f.taken)
			if o.err == nil {
				f.taken = f.value
			}
		}
	}
	o.end()
}
