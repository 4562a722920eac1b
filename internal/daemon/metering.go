package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/gauges"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record/thin"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/sampler"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// shippedPath is the file of what billaged has acknowledged.
func shippedPath(cfg config.Config) string { return filepath.Join(cfg.StateDir, "usage.shipped") }

// metering is what usage goes through: the log, who writes it and who reads it.
type metering struct {
	host    string
	log     *wal.Log
	sampler *sampler.Sampler
	ledger  *ledger.Ledger
	shipper *shipper.Shipper // nil where usage is sent nowhere
	logger  *slog.Logger
	every   time.Duration // between audits; 0: none

	mu      sync.Mutex
	audited gauges.Audited
}

// openMetering reads what earlier metalds wrote, for a host with at most so many VMs. Nothing is read of a VM, or written,
// before it runs.
func openMetering(ctx context.Context, cfg config.Config, vms int, log *slog.Logger) (m *metering, err error) {
	m = &metering{logger: log, every: cfg.AuditEvery}
	if m.host, err = hostID(cfg); err != nil {
		return nil, err
	}
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	if m.log, err = openWAL(cfg, vms, m.host); err != nil {
		return nil, err
	}
	tell(log, m.log.Recovery())
	m.ledger, err = ledger.Open(ctx, ledger.Config{
		Path: ledgerPath(cfg), Log: m.log, Logger: log, Retention: cfg.WALRetention,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the ledger of usage: %w", err), m.log.Close())
	}
	m.sampler, err = sampler.New(sampler.Config{
		Log: m.log, Host: m.host, Boot: bootID, Open: m.ledger.Accounts(), LastEpoch: m.ledger.LastEpoch(), Logger: log,
	})
	if err == nil && cfg.BillingEndpoint != "" {
		m.shipper, err = shipper.New(shipper.Config{
			URL: cfg.BillingEndpoint, Token: cfg.BillingToken.Reveal(), InstanceID: m.host, Log: unacked{m.log}, Path: shippedPath(cfg),
			Accounts: m.sampler.Accounts, Signed: m.signed, Logger: log,
		})
	}
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// A segment holds a keyframe twelve times, and that has a line for each VM: some 250 bytes, and 720 with the longest names.
const (
	leastSegment = 4 << 20
	perVM        = 12 * 768
)

func openWAL(cfg config.Config, vms int, host string) (*wal.Log, error) {
	log, err := wal.Open(logDir(cfg), wal.Options{
		SegmentBytes: max(leastSegment, vms*perVM), QuotaBytes: int64(cfg.WALQuotaBytes), Label: []byte(host), Thin: thin.Records,
	})
	if err != nil {
		return nil, fmt.Errorf("the log of usage: %w", err)
	}
	return log, nil
}

// tell says what the log has lost, if it has.
func tell(log *slog.Logger, r wal.Recovery) {
	if r.Torn > 0 || len(r.Repaired) > 0 || len(r.Unreadable) > 0 {
		log.Warn("the log of usage was cut short", "last", r.Last, "torn", r.Torn, "repaired", len(r.Repaired), "unreadable", r.Unreadable)
	}
}

func (m *metering) close() error {
	var errs []error
	if m.ledger != nil {
		errs = append(errs, m.ledger.Close())
	}
	return errors.Join(append(errs, m.log.Close())...)
}

// with runs f while usage is metered. VMs that f lets go of are metered on by the next metald.
func (m *metering) with(ctx context.Context, f func(context.Context) error) error {
	over, done := context.WithCancel(ctx)
	defer done()
	var result error
	main := func(ctx context.Context) error {
		result = f(ctx)
		done()
		<-ctx.Done()
		return nil
	}
	stages := []stage{{"metald", main}, {"sampler", m.sampler.Run}}
	if m.shipper != nil {
		stages = append(stages, stage{"shipper", m.shipper.Run})
	}
	stages = append(stages, stage{"audit", m.audit}, stage{"retention", m.release}, stage{"log's quota", m.log.Compact}, stage{"log", m.log.Run}, stage{"ledger", m.ledger.Run})
	err := runStages(over, stages...)
	return errors.Join(result, err, m.close())
}

// settle ends the lives that no VM of the manager goes on with.
func (m *metering) settle(manager *vm.Manager) {
	m.sampler.Settle(func(i usage.Incarnation) bool {
		return manager.Lives(types.VMID(i.VM), i.StartTicks, i.Boot)
	}, types.ReasonUnobserved)
}

// signed puts the receiver's signature of the log's head into the log.
func (m *metering) signed(s record.Signature) { m.sampler.Signed(s) }

// releaseEvery is how often the log is told what nobody needs any more.
const releaseEvery = 10 * time.Second

// release has the log forget what the ledger and the receiver both have, and what is older than its retention.
func (m *metering) release(ctx context.Context) error {
	tick := time.NewTicker(releaseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		upTo, err := m.ledger.Releasable()
		if err != nil {
			m.logger.Warn("how far the log of usage can be forgotten is not known", "error", err)
			continue
		}
		if m.shipper != nil {
			upTo = min(upTo, m.shipper.Status().Acked)
		}
		if err := m.log.Ack(upTo); err != nil {
			m.logger.Warn("the log of usage could not be made shorter", "error", err)
		}
	}
}

// unacked is the log for one of its readers, which does not decide alone what can be forgotten.
type unacked struct{ *wal.Log }

func (unacked) Ack(uint64) error { return nil }
