// Package thin makes a log of metering coarser where it grows beyond its quota: it is the log's Thinner, for the
// records of package record.
package thin

import (
	"iter"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// Records is a wal.Thinner: of each incarnation what follows says exactly what was used, a second, a minute or a segment
// at a time.
func Records(level int, records iter.Seq[wal.Entry], emit func(wal.Record) error) error {
	c := record.NewCoarse(level, func(r record.Numbered) error {
		return emit(wal.Record{First: r.First, Seq: r.Seq, Type: r.Type, Keyframe: r.Keyframe, Final: r.Final, Body: r.Body})
	})
	for e := range records {
		if err := take(c, e); err != nil {
			return err
		}
	}
	return c.Close()
}

func take(c *record.Coarse, e wal.Entry) error {
	if e.Lost != nil {
		return c.Lost(e.Lost.First, e.Lost.Last)
	}
	return c.Record(record.Numbered{First: e.First, Seq: e.Seq, Type: e.Type, Keyframe: e.Keyframe, Final: e.Final, Body: e.Body})
}
