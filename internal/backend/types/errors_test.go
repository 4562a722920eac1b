package types_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	. "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("cause")
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"a message", &Error{Msg: "message"}, "message"},
		{"a field", &Error{Field: "config.cpu", Msg: "message"}, "config.cpu: message"},
		{"a cause", &Error{Msg: "message", Err: cause}, "message: cause"},
		{"all three", &Error{Field: "config.cpu", Msg: "message", Err: cause}, "config.cpu: message: cause"},
		{"a cause without words", &Error{Msg: "message", Err: errors.New("")}, "message"},
		{"nothing", &Error{}, ""},
		{"Errorf", Errorf(KindInvalid, "%d of %q", 1, "x"), `1 of "x"`},
		{"Errorf with a cause", Errorf(KindInternal, "read it: %w", cause), "read it: cause"},
		{"Errorf with a cause in the middle", Errorf(KindInternal, "read (%w) it", cause), "read (cause) it"},
		{"Errorf with two causes", Errorf(KindInternal, "%w and %w", cause, fs.ErrExist), "cause and file already exists"},
		{"Errorf of an Error", Errorf(KindPrecondition, "VM a: %w", FieldErrorf(KindInvalid, "f", "m: %w", cause)), "VM a: f: m: cause"},
		{"FieldErrorf", FieldErrorf(KindInvalid, "config.boot.kernel_path", "no: %w", cause), "config.boot.kernel_path: no: cause"},
		{"a wrapped Error", fmt.Errorf("create a: %w", FieldErrorf(KindInvalid, "f", "m: %w", cause)), "create a: f: m: cause"},
	} {
		if got := tc.err.Error(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// custom is an error that errors.As finds.
type custom struct{ n int }

func (c *custom) Error() string { return fmt.Sprint("custom ", c.n) }

func TestErrorfKeepsCauses(t *testing.T) {
	path := &fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}
	for name, err := range map[string]error{
		"one":           Errorf(KindInternal, "it: %w", path),
		"with a field":  FieldErrorf(KindInvalid, "f", "it: %w", path),
		"deep":          Errorf(KindInternal, "it: %w", fmt.Errorf("that: %w", Errorf(KindUnavailable, "x: %w", path))),
		"the second":    Errorf(KindInternal, "%w, %w", &custom{1}, path),
		"of two joined": Errorf(KindInternal, "it: %w", errors.Join(&custom{1}, path)),
		"wrapped":       fmt.Errorf("it: %w", Errorf(KindInternal, "%w", path)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: errors.Is does not find the cause of %q", name, err)
		}
		var found *fs.PathError
		if !errors.As(err, &found) || found != path {
			t.Errorf("%s: errors.As finds %v", name, found)
		}
		if errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: errors.Is finds what is not there", name)
		}
	}
	var c *custom
	if err := Errorf(KindInternal, "%w, %w", &custom{7}, path); !errors.As(err, &c) || c.n != 7 {
		t.Errorf("errors.As finds %v as the first of two", c)
	}
	if err := Errorf(KindInternal, "no cause: %v", path); err.Err != nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%%v made a cause: %#v", err.Err)
	}
	if cause := errors.Unwrap(&Error{Err: context.Canceled}); cause != context.Canceled {
		t.Errorf("Unwrap: %v", cause)
	}
}

func TestKindOf(t *testing.T) {
	inner := Errorf(KindExhausted, "no room")
	for _, tc := range []struct {
		name string
		err  error
		want Kind
	}{
		{"nil", nil, KindInternal},
		{"a stranger", errors.New("x"), KindInternal},
		{"an Error", inner, KindExhausted},
		{"wrapped", fmt.Errorf("a: %w", fmt.Errorf("b: %w", inner)), KindExhausted},
		{"joined", errors.Join(errors.New("x"), inner), KindExhausted},
		{"the outermost", Errorf(KindPrecondition, "a: %w", inner), KindPrecondition},
		{"below a stranger", fmt.Errorf("a: %w", Errorf(KindDeadline, "b: %w", inner)), KindDeadline},
	} {
		if got := KindOf(tc.err); got != tc.want {
			t.Errorf("%s: kind %d, want %d", tc.name, got, tc.want)
		}
	}
}
