package metrics

import (
	"bytes"
	"errors"
	"math"
)

// maxDepth is how deep objects and arrays may nest. Firecracker's nest three deep.
const maxDepth = 16

var (
	errSyntax  = errors.New("not a whole JSON object")
	errDepth   = errors.New("nested deeper than any line of Firecracker's")
	errCounter = errors.New("a counter is not a whole number from 0 to 2^64-1")
)

// scanner steps through JSON (RFC 8259) in place. It accepts nothing that encoding/json refuses, and allocates nothing.
type scanner struct {
	text []byte
	pos  int
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte after white space, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos == len(s.text) {
		return 0
	}
	return s.text[s.pos]
}

// take steps over c, if it comes next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.pos == len(s.text) {
		return false
	}
	s.pos++
	return true
}

// atEnd says whether nothing but white space follows.
func (s *scanner) atEnd() bool {
	s.space()
	return s.pos == len(s.text)
}

// member steps to the value of the next member of an object, whose brace is behind. key is as written, escapes and
// all; it is nil when the object ended.
func (s *scanner) member(first bool) (key []byte, err error) {
	if s.take('}') {
		return nil, nil
	}
	if !first && !s.take(',') {
		return nil, errSyntax
	}
	if s.peek() != '"' {
		return nil, errSyntax
	}
	if key, err = s.str(); err != nil {
		return nil, err
	}
	if !s.take(':') {
		return nil, errSyntax
	}
	return key, nil
}

// str steps over a string, at whose quote it stands, and returns what is between the quotes; never nil.
func (s *scanner) str() ([]byte, error) {
	from := s.pos + 1
	for i := from; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			s.pos = i + 1
			return s.text[from:i:i], nil
		case c < ' ':
			return nil, errSyntax
		case c == '\\':
			n := escapeLength(s.text[i+1:])
			if n == 0 {
				return nil, errSyntax
			}
			i += n
		}
	}
	return nil, errSyntax
}

// escapeLength is how many bytes after a backslash belong to it; 0 if it is no escape.
func escapeLength(b []byte) int {
	if len(b) == 0 || bytes.IndexByte([]byte(`"\/bfnrtu`), b[0]) < 0 {
		return 0
	}
	if b[0] != 'u' {
		return 1
	}
	if len(b) < 5 {
		return 0
	}
	for _, c := range b[1:5] {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return 0
		}
	}
	return 5
}

// counter reads a plain number. Firecracker writes its counters as such; a sign, a fraction or an exponent is none.
func (s *scanner) counter() (uint64, error) {
	s.space()
	from := s.pos
	if err := s.number(); err != nil {
		return 0, errCounter
	}
	var n uint64
	for _, c := range s.text[from:s.pos] {
		digit := uint64(c - '0')
		if c < '0' || c > '9' || n > (math.MaxUint64-digit)/10 {
			return 0, errCounter
		}
		n = n*10 + digit
	}
	return n, nil
}

// number steps over a number.
func (s *scanner) number() error {
	s.one('-', '-')
	if !s.one('0', '0') && s.digits() == 0 {
		return errSyntax
	}
	if s.one('.', '.') && s.digits() == 0 {
		return errSyntax
	}
	if s.one('e', 'E') {
		s.one('+', '-')
		if s.digits() == 0 {
			return errSyntax
		}
	}
	return nil
}

// one steps over a or b, if that is the very next byte.
func (s *scanner) one(a, b byte) bool {
	if s.pos == len(s.text) || s.text[s.pos] != a && s.text[s.pos] != b {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) digits() int {
	from := s.pos
	for s.pos < len(s.text) && s.text[s.pos] >= '0' && s.text[s.pos] <= '9' {
		s.pos++
	}
	return s.pos - from
}
