package qemu

import (
	"errors"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
)

// openTap attaches to the tap of an interface.
func openTap(field, name string) (*os.File, error) {
	if name == "" {
		return nil, types.FieldErrorf(types.KindInvalid, field, "QEMU needs a tap device")
	}
	file, err := tap.Open(name)
	switch {
	case errors.Is(err, tap.ErrName):
		return nil, types.FieldErrorf(types.KindInvalid, field, "%w", err)
	case err != nil:
		return nil, types.FieldErrorf(types.KindPrecondition, field, "%w", err)
	}
	return file, nil
}
