package wal

// finalsWait says that there are final records of which none is durable.
func (w *writer) finalsWait() bool {
	_, _, any := w.unwrittenFinals(nil, 0)
	return any
}

// writeFinals writes final records, and nothing else, to the room that was put aside. They are written again when there
// is room for everything, and that segment then supersedes this one.
func (w *writer) writeFinals() error {
	first, _, any := w.unwrittenFinals(nil, 0)
	if !any {
		return nil
	}
	if w.final == nil {
		if err := w.useReserve(first); err != nil {
			return err
		}
	}
	base := w.final.off
	w.out = w.out[:0]
	if base == 0 {
		w.out = append(w.out, w.final.block()...)
	}
	_, last, any := w.unwrittenFinals(&w.out, w.final.size-base)
	if !any {
		return nil
	}
	err := w.final.write(w.out)
	if err == nil {
		err = w.final.appear(w.log.dir)
	}
	if err != nil { // never to be written again
		w.final.close()
		w.final = nil
		return err
	}
	w.publishFinals(last.seq())
	return nil
}

// unwrittenFinals finds the final records that are not durable, and appends them to out, sealed for the reserve, as
// far as room reaches.
func (w *writer) unwrittenFinals(out *[]byte, room int) (first, last frame, any bool) {
	for at := w.durable; at < len(w.window); {
		f, size := nextFrame(w.window[at:])
		at += size
		if !f.final() || f.seq() <= w.finals {
			continue
		}
		if out != nil {
			if len(*out)+size > room {
				break
			}
			start := len(*out)
			*out = append(*out, w.window[at-size:at]...)
			frame((*out)[start : start+len(f)]).seal(w.final.salt)
		}
		if first == nil {
			first = f
		}
		last, any = f, true
	}
	return first, last, any
}

func (w *writer) useReserve(first frame) error {
	file, err := w.log.dir.Open(reserveName)
	if err != nil {
		return err
	}
	h := header{number: w.number, first: first.seq(), prev: first.prev(), salt: newSalt(), label: w.log.opt.Label}
	w.number++
	w.final = &output{header: h, file: file, size: w.log.opt.ReserveBytes, temporary: reserveName}
	return nil
}

func (w *writer) publishFinals(seq uint64) {
	w.finals = seq
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n == 0 || l.segments[n-1].number != w.final.number {
		l.segments = append(l.segments, segment{header: w.final.header, size: int64(w.final.size), reserve: true})
	}
	l.finals = seq
	l.notify()
}
