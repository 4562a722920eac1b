// Package export writes the rows of billaged's ledger, as metald writes those of its own.
package export

import (
	"context"
	"io"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage/export"
)

// Rows is where rows come from; *store.Store has it.
type Rows interface {
	Hours(ctx context.Context, from, to int64, f func(store.HourRow) error) error
}

// Write writes the rows of [from, to), in unix seconds, and returns the SHA-256 of what it wrote, in hexadecimal.
func Write(ctx context.Context, w io.Writer, rows Rows, format string, from, to int64) (string, error) {
	return export.Write(w, format, func(f func(export.Row) error) error {
		return rows.Hours(ctx, from, to, func(r store.HourRow) error { return f(export.Row(r)) })
	})
}
