package wal

import (
	"errors"
	"io"
)

// frame returns the next frame of the segment that has something after pos, up to the number last, or nil.
func (r *Reader) frame(last uint64) frame {
	if last <= r.pos {
		return nil
	}
	for len(r.frames) == 0 && r.file != nil {
		f := r.read()
		switch {
		case f == nil, f.first() > r.pos+1 && !f.parity(): // some may have been repaired
			if !r.load() {
				return nil
			}
		case f.parity() || f.seq() <= r.pos:
			r.off += int64(frameSize(f.bodyLen()))
		case f.seq() > last:
			return nil
		default:
			r.off += int64(frameSize(f.bodyLen()))
			return f
		}
	}
	if len(r.frames) == 0 || r.frames[0].seq() > last {
		return nil
	}
	f := r.frames[0]
	r.frames = r.frames[1:]
	return f
}

// load finds all that is left of the segment, where reading frame by frame came to something else than the next one. A
// later call begins where this one ended. It says whether there is something.
func (r *Reader) load() bool {
	data, err := readAll(r.file)
	if err != nil || int64(len(data)) <= r.off {
		return false
	}
	all := scan(data, r.salt)
	r.fixed = map[uint64]bool{}
	for _, seq := range all.repaired {
		r.fixed[seq] = true
	}
	for len(all.frames) > 0 && all.frames[0].seq() <= r.pos {
		all.frames = all.frames[1:]
	}
	r.frames = all.frames
	r.off = max(r.off, int64(all.end))
	return len(r.frames) > 0
}

// read reads the frame at off, if there is one.
func (r *Reader) read() frame {
	const ahead = 64 << 10
	if cap(r.buf) < ahead {
		r.buf = make([]byte, ahead)
	}
	for {
		b := r.buf[:cap(r.buf)]
		n, err := r.file.ReadAt(b, r.off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil
		}
		b = b[:n]
		if f := r.salt.parseFrame(b); f != nil || n < frameHeader {
			return f
		}
		need := frameHeader + frame(b).bodyLen()
		if need <= cap(r.buf) || need > 1<<28 {
			return nil
		}
		if size, err := r.file.Size(); err != nil || r.off+int64(need) > size {
			return nil
		}
		r.buf = make([]byte, need)
	}
}
