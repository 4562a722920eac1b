package wal

// beside finds the first record after pos and up to last among those that only a segment of final records has.
func (r *Reader) beside(segments []segment, last uint64) frame {
	var best frame
	for _, s := range segments {
		if !s.finals || s.first > last {
			continue
		}
		for _, f := range r.finalsOf(s) {
			if f.seq() > r.pos && f.seq() <= last && (best == nil || f.seq() < best.seq()) {
				best = f
			}
		}
	}
	return best
}

// finalsOf keeps what it read, unless the segment may grow.
func (r *Reader) finalsOf(s segment) []frame {
	if frames, ok := r.finals[s.number]; ok {
		return frames
	}
	file, err := r.src.open(s.name())
	if err != nil {
		return nil
	}
	defer file.Close()
	data, err := readAll(file)
	if err != nil {
		return nil
	}
	frames := scan(data, s.salt).frames
	if !s.growing {
		if r.finals == nil {
			r.finals = map[uint64][]frame{}
		}
		r.finals[s.number] = frames
	}
	return frames
}
