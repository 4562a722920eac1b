package wal

// output is a segment that is being written.
type output struct {
	header
	file      File
	size      int    // of the file
	off       int    // how far it is written
	temporary string // its name, until its records are durable
	group     parity
}

// full says that the first frame of rest has to go to another segment.
func (o *output) full(rest []byte) bool {
	f, size := nextFrame(rest)
	if f.keyframe() && o.off > o.size*3/4 {
		return true
	}
	return o.off+size+o.group.size(f) > o.size
}

// fill appends to out what the file gets next: frames of the window from at on, and parities. It returns where the
// last of the frames begins and where they end.
func (o *output) fill(out, window []byte, at int) (filled []byte, last, end int) {
	base := o.off
	if base == 0 {
		out = append(out, o.block()...)
	}
	for at < len(window) {
		o.off = base + len(out)
		if o.full(window[at:]) {
			break
		}
		f, size := nextFrame(window[at:])
		if o.group.breaks(f) {
			out = o.group.appendTo(out, o.salt)
		}
		start := len(out)
		out = append(out, window[at:at+size]...)
		frame(out[start : start+len(f)]).seal(o.salt)
		if o.group.add(f) {
			out = o.group.appendTo(out, o.salt)
		}
		last, at = at, at+size
	}
	o.off = base
	return out, last, at
}

// write appends b to the file and makes it durable.
func (o *output) write(b []byte) error {
	if err := writeAll(o.file, b, int64(o.off)); err != nil {
		return err
	}
	o.off += len(b)
	return o.file.Sync()
}

// appear gives the segment its name. From then on it stands for all records from its first one on, so they have to be
// durable.
func (o *output) appear(dir Dir) error {
	if o.temporary == "" {
		return nil
	}
	if err := dir.Rename(o.temporary, o.name()); err != nil {
		return err
	}
	o.temporary = ""
	return dir.Sync()
}

// seal ends the segment: parity for what has none yet, and no more room. It returns the size. The records are durable
// already, so that errors cost nothing but parity or room.
func (o *output) seal() int64 {
	if parities := o.group.appendTo(nil, o.salt); o.write(parities) == nil && o.file.Truncate(int64(o.off)) == nil {
		o.size = o.off
	}
	o.close()
	return int64(o.size)
}

// abandon leaves the file alone, but for one that nobody has seen.
func (o *output) abandon(dir Dir) {
	o.close()
	if o.temporary != "" {
		dir.Remove(o.temporary) // or the next Open does
	}
}

// leave removes a segment whose records others hold.
func (o *output) leave(dir Dir) {
	o.close()
	dir.Remove(o.name()) // what stays of it is superseded
}

// close does not care for an error: everything that counts was synced, or is known not to be.
func (o *output) close() { o.file.Close() }
