package wal

// tail is the segment that was the last one before Open.
type tail struct {
	header
	group parity
	size  int64
}

// close cuts off what was never whole, after parity for what has none. Its successor says which numbers were given up.
// It returns the size.
func (t *tail) close(dir Dir) int64 {
	f, err := dir.Open(t.name())
	if err != nil {
		return t.size
	}
	defer f.Close()
	data, err := readAll(f)
	if err != nil {
		return t.size
	}
	t.size = int64(len(data))
	all := scan(data, t.salt)
	if all.end == len(data) || t.level > 0 || len(all.frames) == 0 {
		return t.size
	}
	for _, fr := range all.frames {
		if t.group.breaks(fr) {
			t.group.reset()
		}
		if t.group.add(fr) {
			t.group.reset()
		}
	}
	o := output{header: t.header, file: f, off: all.end, group: t.group}
	if o.write(o.group.appendTo(nil, t.salt)) == nil && f.Truncate(int64(o.off)) == nil {
		return int64(o.off) // if that is lost, a later Open cuts again
	}
	return t.size
}
