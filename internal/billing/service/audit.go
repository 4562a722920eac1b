package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/export"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/raw"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/receiver"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	usageexport "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage/export"
)

// ErrAudit is for a ledger that is not what the raw batches beside it come to.
var ErrAudit = errors.New("the ledger is not what its raw batches come to")

// Audit makes the ledger in dir anew of the raw batches beside it, in scratch, and compares every row. billaged need
// not stop for it, but rows that it adds meanwhile look like a difference.
func Audit(ctx context.Context, dir, scratch string, out io.Writer) (err error) {
	temp, err := os.MkdirTemp(scratch, "billaged-audit-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	records, err := rebuild(ctx, temp, func(f func([]byte) error) error { return raw.Read(filepath.Join(dir, "raw"), f) })
	if err != nil {
		return err
	}
	kept, err := digest(ctx, dir)
	if err != nil {
		return err
	}
	made, err := digest(ctx, temp)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d raw records; ledger sha256 %s; of raw records sha256 %s\n", records, kept, made)
	if kept != made {
		return ErrAudit
	}
	return nil
}

// rebuild makes a ledger in dir of the records that read gives.
func rebuild(ctx context.Context, dir string, read func(func([]byte) error) error) (records int, err error) {
	ledger, err := store.Open(ctx, dir)
	if err != nil {
		return 0, err
	}
	var fault error
	err = read(func(content []byte) error {
		records++
		if fault = ctx.Err(); fault == nil {
			fault = receiver.Replay(ctx, ledger, content)
		}
		return fault
	})
	if fault != nil {
		err = fmt.Errorf("raw record %d: %w", records, fault)
	}
	return records, errors.Join(err, ledger.Close())
}

func digest(ctx context.Context, dir string) (string, error) {
	ledger, err := store.OpenForReading(filepath.Join(dir, "ledger.db"))
	if err != nil {
		return "", err
	}
	sum, err := export.Write(ctx, io.Discard, ledger, usageexport.CSV, 0, math.MaxInt64)
	return sum, errors.Join(err, ledger.Close())
}
