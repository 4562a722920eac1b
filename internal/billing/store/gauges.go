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
	// UnbilledNs is for how long, in ns, incarnations were used of which the totals are announced and the ticks have not
	// come; the sum over those that are not closed.
	UnbilledNs int64
	// OldestWall is the wall clock, in ns since 1970, of the last tick of the incarnation that is furthest behind; 0 where
	// none is open. Whether its host has more is the host's to say.
	OldestWall int64
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
	one(&g.Quarantined, "SELECT "+setAside+" FROM quarantine x")
	one(&g.GapTicks, "SELECT coalesce(sum(gap_ticks), 0) FROM incarnations")
	one(&g.UnplacedCPUNs, "SELECT coalesce(sum(i.cpu_ns - (SELECT coalesce(sum(l.cpu_ns), 0) FROM ledger l WHERE l.incarnation = i.id)), 0) FROM incarnations i WHERE i.phase <> ?", PhaseClosed)
	one(&g.UnbilledNs, "SELECT coalesce(sum(max(at_mono - json_extract(meter, '$.Totals.At.Mono'), 0)), 0) FROM incarnations WHERE phase <> ? AND legacy = 0", PhaseClosed)
	one(&g.OldestWall, "SELECT coalesce(min(json_extract(meter, '$.Totals.At.Wall')), 0) FROM incarnations WHERE phase <> ? AND legacy = 0", PhaseClosed)
	return g, err
}
