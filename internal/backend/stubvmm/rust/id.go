package rust

import (
	"fmt"
	"unicode"
)

// IDError is an instance's id that is refused (src/utils/src/validators.rs).
type IDError struct {
	Debug string
	text  string
}

func (e *IDError) Error() string { return e.text }

// CheckInstanceID takes letters and digits of all alphabets, and hyphens.
func CheckInstanceID(id string) *IDError {
	if len(id) < 1 || len(id) > 64 {
		return &IDError{
			Debug: fmt.Sprintf("InvalidLen(%d, 1, 64)", len(id)),
			text:  fmt.Sprintf("Invalid len (%d);  the length must be between 1 and 64", len(id)),
		}
	}
	at := 0
	for _, c := range id {
		if c != '-' && !unicode.IsLetter(c) && !unicode.IsNumber(c) {
			return &IDError{
				Debug: fmt.Sprintf("InvalidChar('%c', %d)", c, at),
				text:  fmt.Sprintf("Invalid char (%c) at position %d", c, at),
			}
		}
		at++
	}
	return nil
}
