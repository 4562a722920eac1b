package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/export"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/raw"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/receiver"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	usageexport "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage/export"
)

// auditor audits the ledger that billaged writes, beside that work.
type auditor struct {
	dir    string
	ledger *store.Store
	log    *slog.Logger

	mu     sync.Mutex
	result receiver.Audited
}

// run audits until ctx ends.
func (a *auditor) run(ctx context.Context, every time.Duration) {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		records, err := a.audit(ctx)
		if ctx.Err() != nil {
			return
		}
		a.note(records, err)
	}
}

// note keeps what an audit came to.
func (a *auditor) note(records int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.result
	r.At, r.OK, r.Records = time.Now(), err == nil, int64(records)
	switch {
	case err == nil:
		r.Passed++
		a.log.Info("the ledger is what its raw records come to", "records", records)
	case errors.Is(err, ErrAudit):
		r.Differed++
		a.log.Error("audit", "records", records, "error", err)
	default:
		r.Failed++
		a.log.Error("the ledger cannot be audited", "records", records, "error", err)
	}
}

// status is what audits came to.
func (a *auditor) status() receiver.Audited {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.result
}

// audit compares the ledger as it is now with what its raw records come to.
func (a *auditor) audit(ctx context.Context) (records int, err error) {
	temp, err := os.MkdirTemp(a.dir, "audit-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	frozen, at, err := a.ledger.Freeze(ctx)
	if err != nil {
		return 0, err
	}
	kept, err := export.Write(ctx, io.Discard, frozen, usageexport.CSV, 0, math.MaxInt64)
	if err := errors.Join(err, frozen.Close()); err != nil {
		return 0, err
	}
	records, err = rebuild(ctx, temp, func(f func([]byte) error) error { return raw.ReadTo(filepath.Join(a.dir, "raw"), at, f) })
	if err != nil {
		return records, err
	}
	made, err := digest(ctx, temp)
	if err == nil && made != kept {
		err = fmt.Errorf("%w: sha256 %s, and of raw records %s", ErrAudit, kept, made)
	}
	return records, err
}

// sweep removes what an audit left that did not end.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "audit-*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
