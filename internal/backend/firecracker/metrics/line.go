package metrics

import (
	"bytes"
	"errors"
	"time"
)

var (
	errTwice    = errors.New("the same key twice")
	errEscape   = errors.New("an escape in a key, which Firecracker writes none of")
	errMissing  = errors.New("a device without one of its counters")
	errOverflow = errors.New("a counter beyond 2^64-1")
	errStamp    = errors.New("no " + stampKey)
	errTooLong  = errors.New("longer than 1 MiB")
)

// line takes one line without its end. Torn and glued lines are split where one begins: what is whole counts, the
// rest is lost.
func (d *Decoder) line(text []byte) {
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return
	}
	if i := bytes.Index(text, []byte(marker)); i < 0 {
		d.lost(len(text), errStamp)
		return
	} else if i > 0 {
		d.lost(i, errSyntax)
		text = text[i:]
	}
	for len(text) > 0 {
		end := len(text)
		if i := bytes.Index(text[1:], []byte(marker)); i >= 0 {
			end = i + 1
		}
		if err := d.object(text[:end]); err != nil {
			d.lost(end, err)
		}
		text = text[end:]
	}
}

// object takes the object of one flush. After an error nothing of it is counted.
func (d *Decoder) object(text []byte) error {
	for _, g := range d.groups {
		g.seen = 0
	}
	s := scanner{text: text}
	stamp, others, err := d.read(&s)
	if err != nil {
		return err
	}
	if !s.atEnd() {
		return errSyntax
	}
	for _, g := range d.groups {
		g.commit()
	}
	d.others += others
	d.lines++
	d.told(time.UnixMilli(stamp))
	return nil
}

// read scans a whole object into the groups' values. others is how many devices it has that are none of ours.
func (d *Decoder) read(s *scanner) (stamp int64, others uint64, err error) {
	s.take('{')
	for first := true; ; first = false {
		key, err := s.member(first)
		switch {
		case err != nil:
			return 0, 0, err
		case key == nil:
			return stamp, others, nil
		case escaped(key):
			return 0, 0, errEscape
		}
		switch g := d.byKey[string(key)]; {
		case string(key) == stampKey && !first:
			err = errTwice
		case string(key) == stampKey:
			stamp, err = readStamp(s)
		case g != nil:
			err = g.read(s)
		default:
			if bytes.HasPrefix(key, []byte(drivePrefix)) || bytes.HasPrefix(key, []byte(networkPrefix)) {
				others++
			}
			err = s.skip(1)
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

// maxStamp ends the year 9999. No text form of a time goes further.
const maxStamp = 253402300799999

func readStamp(s *scanner) (int64, error) {
	n, err := s.counter()
	if err != nil || n > maxStamp {
		return 0, errStamp
	}
	return int64(n), nil
}

func escaped(key []byte) bool { return bytes.IndexByte(key, '\\') >= 0 }
