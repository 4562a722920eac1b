package metrics

import "bytes"

// skip steps over a value that is not wanted, and yet has to be whole. depth is how many objects and arrays are around
// it.
func (s *scanner) skip(depth int) error {
	switch c := s.peek(); {
	case c == '{' && depth == maxDepth, c == '[' && depth == maxDepth:
		return errDepth
	case c == '{':
		return s.skipObject(depth)
	case c == '[':
		return s.skipArray(depth)
	case c == '"':
		_, err := s.str()
		return err
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) skipObject(depth int) error {
	s.pos++
	for first := true; ; first = false {
		key, err := s.member(first)
		if key == nil || err != nil {
			return err
		}
		if err := s.skip(depth + 1); err != nil {
			return err
		}
	}
}

func (s *scanner) skipArray(depth int) error {
	s.pos++
	if s.take(']') {
		return nil
	}
	for {
		if err := s.skip(depth + 1); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
	}
}

func (s *scanner) literal(word string) error {
	if !bytes.HasPrefix(s.text[s.pos:], []byte(word)) {
		return errSyntax
	}
	s.pos += len(word)
	return nil
}
