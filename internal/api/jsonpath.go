package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// jsonPath returns the path of the token at a line and a column (in runes, from 1) of a JSON text, as in
// config.storage[0].readOnly, with the names as they were sent; "" if the text is not JSON up to there.
func jsonPath(data []byte, line, column int) string {
	target := byteOffset(data, line, column)
	tokens := json.NewDecoder(bytes.NewReader(data))
	tokens.UseNumber() // a number out of range is a token like any other
	var at jsonPlace
	for {
		token, err := tokens.Token()
		if err != nil {
			return ""
		}
		at.step(token)
		if tokens.InputOffset() > int64(target) {
			return at.String()
		}
	}
}

func byteOffset(data []byte, line, column int) int {
	start := 0
	for ; line > 1; line-- {
		end := bytes.IndexByte(data[start:], '\n')
		if end < 0 {
			break
		}
		start += end + 1
	}
	// The column counts runes; the first of them ends column-1 runes on.
	rest := data[start:]
	for i := range string(rest) {
		if column--; column == 0 {
			return start + i
		}
	}
	return len(data)
}

// jsonPlace is where in a JSON text a reader of tokens is: one level for each object or array that is open.
type jsonPlace []jsonLevel

type jsonLevel struct {
	array  bool
	index  int    // of the present element of an array
	key    string // of the present member of an object
	valued bool   // the present member has had its value
}

func (p *jsonPlace) step(token json.Token) {
	if token == json.Delim('}') || token == json.Delim(']') {
		*p = (*p)[:len(*p)-1]
		return
	}
	if n := len(*p); n > 0 {
		if (*p)[n-1].next(token) {
			return
		}
	}
	switch token {
	case json.Delim('{'):
		*p = append(*p, jsonLevel{valued: true})
	case json.Delim('['):
		*p = append(*p, jsonLevel{array: true, index: -1})
	}
}

// next takes a token directly in this level, and says whether it was the key of a member.
func (l *jsonLevel) next(token json.Token) bool {
	if l.array {
		l.index++
		return false
	}
	if l.valued {
		l.key, _ = token.(string)
		l.valued = false
		return true
	}
	l.valued = true
	return false
}

// String returns the path in the style of the proto rules.
func (p jsonPlace) String() string {
	var b strings.Builder
	for _, level := range p {
		switch {
		case level.array && level.index >= 0:
			fmt.Fprintf(&b, "[%d]", level.index)
		case !level.array && level.key != "":
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(level.key)
		}
	}
	return b.String()
}
