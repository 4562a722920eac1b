package store

import "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"

// Failing wraps a Store for tests: a call fails with what its function returns, and reaches the Store where
// that is nil or the function is not set.
type Failing struct {
	Store
	OnPut    func(Record) error
	OnDelete func(types.VMID) error
	OnAll    func() error
}

// Put fails with OnPut's error.
func (f *Failing) Put(r Record) error {
	if f.OnPut != nil {
		if err := f.OnPut(r); err != nil {
			return err
		}
	}
	return f.Store.Put(r)
}

// Delete fails with OnDelete's error.
func (f *Failing) Delete(id types.VMID) error {
	if f.OnDelete != nil {
		if err := f.OnDelete(id); err != nil {
			return err
		}
	}
	return f.Store.Delete(id)
}

// All fails with OnAll's error.
func (f *Failing) All() ([]Record, error) {
	if f.OnAll != nil {
		if err := f.OnAll(); err != nil {
			return nil, err
		}
	}
	return f.Store.All()
}
