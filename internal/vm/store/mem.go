package store

import (
	"sync"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Mem is a Store in memory, for tests: it survives a restart of the manager in the same process.
type Mem struct {
	mu      sync.Mutex
	records map[types.VMID][]byte
	lastSeq uint64
}

// NewMem returns an empty Mem.
func NewMem() *Mem { return &Mem{records: map[types.VMID][]byte{}} }

// Put saves r under its id. Like Bolt it keeps bytes, so that what cannot be encoded does not survive here either.
func (m *Mem) Put(r Record) error {
	value, err := encode(r)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records[r.ID] = value
	m.lastSeq = max(m.lastSeq, r.Seq)
	return nil
}

// Delete removes the record of id.
func (m *Mem) Delete(id types.VMID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, id)
	return nil
}

// All returns every record, ordered by Seq.
func (m *Mem) All() ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	records := make([]Record, 0, len(m.records))
	for id, value := range m.records {
		r, err := decode(id, value)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	sortBySeq(records)
	return records, nil
}

// LastSeq returns the largest Seq that was ever put.
func (m *Mem) LastSeq() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastSeq, nil
}

// Close does nothing: the records stay for the next manager.
func (m *Mem) Close() error { return nil }
