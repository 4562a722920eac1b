package store

import (
	"context"
	"database/sql"
)

// Gauges are what whoever runs billaged watches.
type Gauges struct {
	Incarnations  [3]int64 // by phase
	Quarantined   int64
	GapTicks      int64
	UnplacedCPUNs int64 // announced, and not in the rows of any hour
}

// Gauges reads them.
func (s *Store) Gauges(ctx context.Context) (g Gauges, err error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return g, err
	}
	defer tx.Rollback() // nothing was written
	one := func(dest *int64, query string, args ...any) {
		if err == nil {
			err = tx.QueryRowContext(ctx, query, args...).Scan(dest)
		}
	}
	for phase := range g.Incarnations {
		one(&g.Incarnations[phase], "SELECT count(*) FROM incarnations WHERE phase=?", phase)
	}
	one(&g.Quarantined, "SELECT count(*) FROM quarantine WHERE kind <> 'wall_stepped'")
	one(&g.GapTicks, "SELECT coalesce(sum(gap_ticks), 0) FROM incarnations")
	one(&g.UnplacedCPUNs, "SELECT coalesce(sum(i.cpu_ns - (SELECT coalesce(sum(l.cpu_ns), 0) FROM ledger l WHERE l.incarnation = i.id)), 0) FROM incarnations i WHERE i.phase <> ?", PhaseClosed)
	return g, err
}
