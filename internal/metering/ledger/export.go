package ledger

import (
	"context"
	"io"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage/export"
)

// Export writes the rows of [from, to), whole hours, and returns the SHA-256 of what it wrote, in hexadecimal. The zero
// from is the beginning, the zero to the end of the last hour that is complete; a later one is refused, as rows of
// hours that are not complete still grow. The same range of the same ledger gives the same bytes.
func (l *Ledger) Export(ctx context.Context, w io.Writer, format string, from, to time.Time) (sum string, err error) {
	if err := export.Known(format); err != nil {
		return "", types.FieldErrorf(types.KindInvalid, "format", "%w", err)
	}
	sealed := l.Sealed()
	if to.IsZero() {
		to = sealed
	}
	switch {
	case !wholeHour(from):
		return "", types.FieldErrorf(types.KindInvalid, "from", "%s is not a whole hour", from.Format(time.RFC3339Nano))
	case !wholeHour(to):
		return "", types.FieldErrorf(types.KindInvalid, "to", "%s is not a whole hour", to.Format(time.RFC3339Nano))
	case to.After(sealed):
		return "", types.FieldErrorf(types.KindPrecondition, "to", "hours are complete up to %s; what is later may still grow", sealed.Format(time.RFC3339))
	}
	first := int64(0)
	if !from.IsZero() {
		first = from.Unix()
	}
	return export.Write(w, format, func(f func(export.Row) error) error { return l.Hours(ctx, first, to.Unix(), f) })
}

func wholeHour(t time.Time) bool { return t.Truncate(time.Hour).Equal(t) }
