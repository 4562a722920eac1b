package ledger

import (
	"context"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// join begins to follow the log, and reads what it has that the ledger has not. Where the log is not the one that the
// ledger knows, all of it is read: what the ledger has already changes nothing.
func (l *Ledger) join(ctx context.Context) error {
	if !l.knows(ctx) {
		l.cfg.Logger.Warn("the log of usage is not the one that the ledger followed, or lost its end; all of it is read", "ledger", l.position)
		l.position, l.hash = 0, wal.Hash{}
		l.book.again = true
	}
	err := l.catchUp(ctx)
	l.book.again = false
	if err != nil {
		return err
	}
	return l.save()
}

// knows says whether the log has the last record that the ledger has, as it was. It cannot be told of one that is
// acknowledged and gone, or that was made coarser.
func (l *Ledger) knows(ctx context.Context) bool {
	head, hash := l.cfg.Log.Head()
	switch {
	case l.position == 0 || l.hash == (wal.Hash{}):
		return head >= l.position
	case head <= l.position:
		return head == l.position && hash == l.hash
	}
	r := l.cfg.Log.NewReader(l.position)
	defer r.Close()
	for {
		e, err := r.Next(ctx)
		if err != nil || !e.Known {
			return true
		}
		if e.Seq == l.position {
			return e.Level > 0 || e.Hash == l.hash
		}
	}
}
