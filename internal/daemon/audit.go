package daemon

import (
	"context"
	"io"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/api"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/gauges"
)

// audit compares the ledger with its log, again and again.
func (m *metering) audit(ctx context.Context) error {
	if m.every == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		m.auditOnce(ctx)
	}
}

func (m *metering) auditOnce(ctx context.Context) {
	found, err := m.ledger.Audit(ctx)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &m.audited
	a.At, a.Different, a.Err = time.Now(), len(found.Different), err
	switch {
	case err != nil:
		a.Failed++
		m.logger.Error("the ledger of usage could not be compared with its log", "error", err)
	case len(found.Different) > 0:
		a.Differed++
		m.logger.Error("the ledger of usage is not what its log comes to", "differences", len(found.Different), "first", found.Different[0])
	default:
		a.Passed++
		m.logger.Info("the ledger of usage is what its log comes to", "incarnations", found.Incarnations, "hours", found.Rows, "from", found.From)
	}
}

// state is how metering is now.
func (m *metering) state() gauges.State {
	s := gauges.State{Sampler: m.sampler.Status(), Log: m.log.Status(), Ledger: m.ledger.Status(), Now: time.Now()}
	if m.shipper != nil {
		shipped := m.shipper.Status()
		s.Shipper = &shipped
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Audit = m.audited
	return s
}

func (m *metering) write(w io.Writer) error { return gauges.Write(w, m.state()) }

// status says in words what needs somebody.
func (m *metering) status() api.ComponentStatus {
	note, failing := gauges.Trouble(m.state())
	return api.ComponentStatus{Name: "metering", Err: failing, Note: note}
}
