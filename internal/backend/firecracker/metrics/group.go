package metrics

// group is the wanted part of one object in a line: of a drive, an interface, or the VMM.
type group struct {
	key    string
	device bool // every field must be in every line that has the object: it is what is billed
	fields []field
	names  []string // of the fields, with the key
	total  []uint64
	known  uint64 // bit i: total[i] was reported at least once

	// Of the line that is being read.
	value []uint64
	seen  uint64 // bit i: value[i] is set
}

func newGroup(key string, device bool, list []field) *group {
	names := make([]string, 0, len(list))
	for _, f := range list {
		names = append(names, key+"."+f.name)
	}
	return &group{
		key: key, device: device, fields: list, names: names,
		total: make([]uint64, len(list)), value: make([]uint64, len(list)),
	}
}

// field is the index of a field's name, -1 if it is not wanted.
func (g *group) field(name []byte) int {
	for i := range g.fields {
		if g.fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// read takes the wanted numbers of the object that s comes to.
func (g *group) read(s *scanner) error {
	if !s.take('{') {
		return errSyntax
	}
	for first := true; ; first = false {
		key, err := s.member(first)
		if err != nil {
			return err
		}
		if key == nil {
			return g.complete()
		}
		if err := g.member(s, key); err != nil {
			return err
		}
	}
}

func (g *group) member(s *scanner, key []byte) error {
	if escaped(key) {
		return errEscape
	}
	i := g.field(key)
	if i < 0 {
		return s.skip(2)
	}
	if g.seen&(1<<i) != 0 {
		return errTwice
	}
	n, err := s.counter()
	g.value[i] = n
	g.seen |= 1 << i
	return err
}

// complete says whether the line can be counted: nothing is missing of a device, and no total would overflow.
func (g *group) complete() error {
	if g.device && g.seen != 1<<len(g.fields)-1 {
		return errMissing
	}
	for i, f := range g.fields {
		if g.seen&(1<<i) != 0 && f.kind == delta && g.total[i]+g.value[i] < g.total[i] {
			return errOverflow
		}
	}
	return nil
}

// commit makes what the line said part of the totals.
func (g *group) commit() {
	for i, f := range g.fields {
		switch {
		case g.seen&(1<<i) == 0:
		case f.kind == delta:
			g.total[i] += g.value[i]
		default:
			g.total[i] = g.value[i]
		}
	}
	g.known |= g.seen
}

// said is what the line that is being read says of a field; 0 if it doesn't.
func (g *group) said(name string) uint64 {
	i := g.field([]byte(name))
	if i < 0 || g.seen&(1<<i) == 0 {
		return 0
	}
	return g.value[i]
}
