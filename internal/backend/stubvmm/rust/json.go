package rust

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Types of fields that Go has no type of its own for.
type (
	// USize is Rust's usize.
	USize uint64
	// Path is a PathBuf.
	Path string
	// Enum is an enum without data: its value is one of Variants.
	Enum interface{ Variants() []string }
	// Parsed is a value that is written as a string and has an error of its own.
	Parsed interface{ Parse(string) error }
)

// JSONError is what serde_json says.
type JSONError struct {
	Message      string
	Line, Column int // Line is 0 until the place is known
}

func (e *JSONError) Error() string {
	return fmt.Sprintf("%s at line %d column %d", e.Message, e.Line, e.Column)
}

// Decode reads JSON into the struct that into points to, as serde does with deny_unknown_fields: the name of a field
// is its tag json; it may be missing if it is a pointer or has the tag serde:"default". A struct whose blank field has
// the tag serde:"open" passes over fields that it doesn't know. In messages a struct goes by the name of its type, with
// a capital letter.
func Decode(b []byte, into any) error {
	d := &decoder{b: b}
	if err := d.value(reflect.ValueOf(into).Elem()); err != nil {
		return err
	}
	if _, ok := d.peek(); ok {
		return d.peekError("trailing characters")
	}
	return nil
}

type decoder struct {
	b []byte
	i int
}

func (d *decoder) position(i int) (line, column int) {
	start := bytes.LastIndexByte(d.b[:i], '\n') + 1
	return 1 + bytes.Count(d.b[:start], []byte("\n")), i - start
}

// errorHere is an error about what was read last, peekError one about what comes next.
func (d *decoder) errorHere(format string, args ...any) *JSONError {
	e := &JSONError{Message: fmt.Sprintf(format, args...)}
	e.Line, e.Column = d.position(d.i)
	return e
}

func (d *decoder) peekError(message string) *JSONError {
	e := &JSONError{Message: message}
	e.Line, e.Column = d.position(min(len(d.b), d.i+1))
	return e
}

// fix gives an error the place that was reached, if it has none.
func (d *decoder) fix(err *JSONError) *JSONError {
	if err.Line == 0 {
		err.Line, err.Column = d.position(d.i)
	}
	return err
}

// peek skips blanks.
func (d *decoder) peek() (byte, bool) {
	for d.i < len(d.b) {
		switch c := d.b[d.i]; c {
		case ' ', '\n', '\t', '\r':
			d.i++
		default:
			return c, true
		}
	}
	return 0, false
}

func (d *decoder) value(v reflect.Value) *JSONError {
	c, ok := d.peek()
	if !ok {
		return d.peekError("EOF while parsing a value")
	}
	if v.Kind() == reflect.Pointer {
		if c == 'n' {
			return d.ident("null")
		}
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem())
	}
	if p, ok := v.Addr().Interface().(Parsed); ok {
		return d.parsed(c, p)
	}
	if e, ok := v.Interface().(Enum); ok {
		return d.enum(c, v, e.Variants())
	}
	switch v.Kind() {
	case reflect.Struct:
		return d.structure(c, v)
	case reflect.Slice:
		return d.sequence(c, v)
	case reflect.String:
		return d.text(c, v)
	case reflect.Bool:
		return d.boolean(c, v)
	default:
		return d.integer(c, v)
	}
}

// structure reads an object. An error of one of its fields without a place gets the one behind the object's end, if
// that is what follows.
func (d *decoder) structure(c byte, v reflect.Value) *JSONError {
	name := "struct " + capital(v.Type().Name())
	if c == '[' && bytes.HasPrefix(d.b[d.i:], []byte("[]")) {
		d.i += 2
		return d.errorHere("invalid length 0, expected %s with %s", name, elements(len(shapeOf(v.Type()).names)))
	}
	if c != '{' {
		return d.invalidType(c, name)
	}
	d.i++
	err := d.fields(v)
	if c, ok := d.peek(); ok && c == '}' {
		d.i++
	} else if err == nil {
		return d.peekError("trailing characters")
	}
	if err != nil {
		return d.fix(err)
	}
	return nil
}

func elements(n int) string {
	if n == 1 {
		return "1 element"
	}
	return fmt.Sprintf("%d elements", n)
}

func (d *decoder) fields(v reflect.Value) *JSONError {
	shape := shapeOf(v.Type())
	seen := map[string]bool{}
	for first := true; ; first = false {
		name, more, err := d.key(first)
		if err != nil {
			return err
		}
		if !more {
			return shape.missing(seen)
		}
		at := slices.Index(shape.names, name)
		switch {
		case at < 0 && !shape.open:
			return &JSONError{Message: fmt.Sprintf("unknown field `%s`, %s", name, oneOf(shape.names))}
		case at >= 0 && seen[name]:
			return &JSONError{Message: fmt.Sprintf("duplicate field `%s`", name)}
		}
		if err := d.colon(); err != nil {
			return err
		}
		if at < 0 {
			err = d.skip()
		} else {
			seen[name] = true
			err = d.value(v.Field(shape.index[at]))
		}
		if err != nil {
			return err
		}
	}
}

// shape is what a struct is made of.
type shape struct {
	names    []string
	index    []int
	optional []bool
	open     bool
}

func shapeOf(t reflect.Type) shape {
	var s shape
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "_" {
			s.open = f.Tag.Get("serde") == "open"
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		s.names = append(s.names, name)
		s.index = append(s.index, i)
		s.optional = append(s.optional, f.Type.Kind() == reflect.Pointer || f.Tag.Get("serde") == "default")
	}
	return s
}

func (s shape) missing(seen map[string]bool) *JSONError {
	for i, name := range s.names {
		if !seen[name] && !s.optional[i] {
			return &JSONError{Message: fmt.Sprintf("missing field `%s`", name)}
		}
	}
	return nil
}

// oneOf is serde's list of what it would have taken.
func oneOf(names []string) string {
	switch len(names) {
	case 0:
		return "there are no fields"
	case 1:
		return fmt.Sprintf("expected `%s`", names[0])
	case 2:
		return fmt.Sprintf("expected `%s` or `%s`", names[0], names[1])
	}
	return "expected one of `" + strings.Join(names, "`, `") + "`"
}
