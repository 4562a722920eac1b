package rust

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// key reads the next name of an object; more is false at its end, which is not read.
func (d *decoder) key(first bool) (name string, more bool, err *JSONError) {
	c, ok := d.peek()
	switch {
	case !ok:
		return "", false, d.peekError("EOF while parsing an object")
	case c == '}':
		return "", false, nil
	case c == ',' && !first:
		d.i++
		if c, ok = d.peek(); !ok {
			return "", false, d.peekError("EOF while parsing a value")
		}
		if c == '}' {
			return "", false, d.peekError("trailing comma")
		}
	case !first:
		return "", false, d.peekError("expected `,` or `}`")
	}
	if c != '"' {
		return "", false, d.peekError("key must be a string")
	}
	name, err = d.quoted()
	return name, err == nil, err
}

func (d *decoder) colon() *JSONError {
	switch c, ok := d.peek(); {
	case !ok:
		return d.peekError("EOF while parsing an object")
	case c != ':':
		return d.peekError("expected `:`")
	}
	d.i++
	return nil
}

// quoted reads a string of which the quote is next.
func (d *decoder) quoted() (string, *JSONError) {
	start := d.i
	for d.i++; d.i < len(d.b); d.i++ {
		switch c := d.b[d.i]; {
		case c == '\\':
			d.i++
		case c == '"':
			d.i++
			var s string
			if json.Unmarshal(d.b[start:d.i], &s) != nil || !utf8.Valid(d.b[start:d.i]) {
				return "", d.errorHere("invalid escape")
			}
			return s, nil
		case c < 0x20:
			return "", d.errorHere("control character (\\u0000-\\u001F) found while parsing a string")
		}
	}
	d.i = len(d.b)
	return "", d.errorHere("EOF while parsing a string")
}

func (d *decoder) ident(word string) *JSONError {
	for i := range len(word) {
		switch {
		case d.i == len(d.b):
			return d.errorHere("EOF while parsing a value")
		case d.b[d.i] != word[i]:
			d.i++
			return d.errorHere("expected ident")
		}
		d.i++
	}
	return nil
}

// number reads a number: whole says that it is an integer, which in serde_json fits into 64 bits.
func (d *decoder) number() (digits string, whole bool, err *JSONError) {
	start := d.i
	for d.i < len(d.b) && strings.IndexByte("+-.eE0123456789", d.b[d.i]) >= 0 {
		d.i++
	}
	digits = string(d.b[start:d.i])
	if !json.Valid([]byte(digits)) {
		return "", false, d.errorHere("invalid number")
	}
	if _, err := strconv.ParseUint(digits, 10, 64); err == nil {
		return digits, true, nil
	}
	_, bad := strconv.ParseInt(digits, 10, 64)
	return digits, bad == nil, nil
}

// invalidType reads what is next, which begins with c, and says that it is not what was expected.
func (d *decoder) invalidType(c byte, expected string) *JSONError {
	what, err := d.describe(c)
	if err != nil {
		return err
	}
	return d.errorHere("invalid type: %s, expected %s", what, expected)
}

func (d *decoder) describe(c byte) (string, *JSONError) {
	switch {
	case c == '"':
		s, err := d.quoted()
		return fmt.Sprintf("string %q", s), err
	case c == 'n':
		return "null", d.ident("null")
	case c == 't':
		return "boolean `true`", d.ident("true")
	case c == 'f':
		return "boolean `false`", d.ident("false")
	case c == '[':
		return "sequence", nil
	case c == '{':
		return "map", nil
	case c == '-' || '0' <= c && c <= '9':
		digits, whole, err := d.number()
		if whole {
			return "integer `" + digits + "`", err
		}
		return "floating point `" + digits + "`", err
	}
	return "", d.peekError("expected value")
}

func (d *decoder) text(c byte, v reflect.Value) *JSONError {
	expected := "a string"
	if v.Type() == reflect.TypeFor[Path]() {
		expected = "path string"
	}
	if c != '"' {
		return d.invalidType(c, expected)
	}
	s, err := d.quoted()
	v.SetString(s)
	return err
}

func (d *decoder) parsed(c byte, p Parsed) *JSONError {
	if c != '"' {
		return d.invalidType(c, "a string")
	}
	s, err := d.quoted()
	if err != nil {
		return err
	}
	if err := p.Parse(s); err != nil {
		return &JSONError{Message: err.Error()}
	}
	return nil
}

func (d *decoder) enum(c byte, v reflect.Value, variants []string) *JSONError {
	if c != '"' {
		return d.peekError("expected value")
	}
	s, err := d.quoted()
	if err != nil {
		return err
	}
	if !slices.Contains(variants, s) {
		return d.errorHere("unknown variant `%s`, %s", s, oneOf(variants))
	}
	v.SetString(s)
	return nil
}

func (d *decoder) boolean(c byte, v reflect.Value) *JSONError {
	switch c {
	case 't':
		v.SetBool(true)
		return d.ident("true")
	case 'f':
		return d.ident("false")
	}
	return d.invalidType(c, "a boolean")
}

func (d *decoder) integer(c byte, v reflect.Value) *JSONError {
	expected := "u" + strconv.Itoa(v.Type().Bits())
	if v.Type() == reflect.TypeFor[USize]() {
		expected = "usize"
	}
	if c != '-' && (c < '0' || c > '9') {
		return d.invalidType(c, expected)
	}
	digits, whole, err := d.number()
	if err != nil {
		return err
	}
	if !whole {
		return d.errorHere("invalid type: floating point `%s`, expected %s", digits, expected)
	}
	n, bad := strconv.ParseUint(digits, 10, 64)
	if bad != nil || v.OverflowUint(n) {
		return d.errorHere("invalid value: integer `%s`, expected %s", digits, expected)
	}
	v.SetUint(n)
	return nil
}

func (d *decoder) sequence(c byte, v reflect.Value) *JSONError {
	if c != '[' {
		return d.invalidType(c, "a sequence")
	}
	d.i++
	for first := true; ; first = false {
		switch c, ok := d.peek(); {
		case !ok:
			return d.peekError("EOF while parsing a list")
		case c == ']':
			d.i++
			return nil
		case c == ',' && !first:
			d.i++
			if c, ok := d.peek(); ok && c == ']' {
				return d.peekError("trailing comma")
			}
		case !first:
			return d.peekError("expected `,` or `]`")
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(item); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
}

// skip reads a value of any kind.
func (d *decoder) skip() *JSONError {
	c, ok := d.peek()
	if !ok {
		return d.peekError("EOF while parsing a value")
	}
	if c != '{' && c != '[' {
		_, err := d.describe(c)
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(d.b[d.i:])))
	var raw json.RawMessage
	if dec.Decode(&raw) != nil {
		return d.peekError("expected value")
	}
	d.i += int(dec.InputOffset())
	return nil
}
