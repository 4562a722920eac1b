package config

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// ByteSize is a number of bytes, written as a plain number or with KiB, MiB, GiB or TiB behind it.
type ByteSize int64

var sizeUnits = []struct {
	suffix string
	factor int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseByteSize reads what ByteSize.String writes.
func ParseByteSize(text string) (ByteSize, error) {
	number, factor := text, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			number, factor = rest, u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)/factor {
		return 0, fmt.Errorf("%q is not a size; write bytes or a number with KiB, MiB, GiB or TiB behind it", text)
	}
	return ByteSize(n * factor), nil
}

// String returns the size in the largest unit that divides it.
func (b ByteSize) String() string {
	for _, u := range sizeUnits[:len(sizeUnits)-1] {
		if b != 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Secret is a text that never shows: every way of printing it gives ***, or an address where it is an unexported
// field and package fmt cannot ask it.
type Secret struct{ text *string }

// NewSecret keeps text from being printed.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String returns *** where a secret is set.
func (s Secret) String() string {
	if s.Reveal() == "" {
		return ""
	}
	return "***"
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText is String, for JSON and its like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is String, for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
