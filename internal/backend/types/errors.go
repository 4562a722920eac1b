package types

import (
	"errors"
	"fmt"
	"strings"
)

// Kind sorts errors by what the caller can do about them. The API turns each into one Connect code.
type Kind uint8

// The kinds of error.
const (
	KindInternal     Kind = iota // a fault of metald's own
	KindInvalid                  // the request is wrong, whatever the state: invalid_argument
	KindNotFound                 // no such VM
	KindExists                   // the id is taken by another config: already_exists
	KindPrecondition             // right request, wrong moment: failed_precondition
	KindExhausted                // no room: resource_exhausted
	KindUnsupported              // this backend cannot do it: unimplemented
	KindUnavailable              // the VMM is gone or does not answer
	KindDeadline                 // it did not happen in time
	KindAborted                  // another request got in the way; try again
	KindCanceled                 // the caller gave up
)

// Error is an error with a kind and, for a wrong request, the path of the field (config.boot.kernel_path).
type Error struct {
	Kind  Kind
	Field string // "" where no single field is at fault
	Msg   string // for the person who reads it: what was asked, what is wrong, what to do
	Err   error  // the cause, may be nil
}

// Error returns "field: message: cause", leaving out what is empty.
func (e *Error) Error() string {
	s := e.Msg
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		if cause := e.Err.Error(); cause != "" {
			s += ": " + cause
		}
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost *Error in err's chain, KindInternal where there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// Errorf makes an *Error of a kind. A %w verb in format makes its operand the cause, several all of them.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Kind: kind, Msg: err.Error()}
	if errors.Unwrap(err) != nil {
		e.Err = quiet{errors.Unwrap(err)}
	} else if _, several := err.(interface{ Unwrap() []error }); several {
		e.Err = quiet{err}
	}
	return e
}

// FieldErrorf makes an *Error of a kind about one field of the request, by its path in the proto.
func FieldErrorf(kind Kind, field, format string, args ...any) *Error {
	e := Errorf(kind, format, args...)
	e.Field = field
	return e
}

// UnknownBackend refuses the name of a backend that there is not, naming those that there are.
func UnknownBackend(name string, known []string) *Error {
	return FieldErrorf(KindInvalid, "backend", "%q is none of %s", name, strings.Join(known, ", "))
}

// quiet keeps a cause for errors.Is and errors.As whose text is already part of the message.
type quiet struct{ error }

func (q quiet) Error() string { return "" }
func (q quiet) Unwrap() error { return q.error }

// ErrGone says that the process of a Handle is no more, or was never that process.
var ErrGone = errors.New("the VMM process is gone")

// ErrUnsupported says that a reading cannot be had from this backend; it is never replaced by a guess.
var ErrUnsupported = errors.New("not supported by this backend")
