package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// encode is what a Store keeps of r.
func encode(r Record) ([]byte, error) {
	if r.ID == "" {
		return nil, errors.New("save a record: it has no id")
	}
	r.Version = Version
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("save %s: %w", r.ID, err)
	}
	return value, nil
}

// decode reads what was kept under id. Its errors name the record.
func decode(id types.VMID, value []byte) (Record, error) {
	var r Record
	err := json.Unmarshal(value, &r)
	if version, ok := versionOf(r, value, err); ok && version != Version {
		return Record{}, fmt.Errorf("the record of %s has version %d; this metald knows version %d", id, version, Version)
	}
	if err != nil {
		return Record{}, fmt.Errorf("the record of %s is damaged: %w", id, err)
	}
	if r.ID != id {
		return Record{}, fmt.Errorf("the record of %s is damaged: it says that it is of %q", id, r.ID)
	}
	if !r.known() {
		return Record{}, fmt.Errorf("the record of %s is damaged: phase %q, state %s", id, r.Phase, r.State)
	}
	return r, nil
}

// versionOf returns the version of a record, also of one whose other fields mean something else than ours.
func versionOf(r Record, value []byte, err error) (version int, ok bool) {
	if err == nil {
		return r.Version, true
	}
	var head struct{ Version int }
	err = json.Unmarshal(value, &head)
	return head.Version, err == nil
}

// known tells whether phase and state are ones that metald writes. What becomes of a VM after a restart, that it
// is deleted even, depends on them.
func (r Record) known() bool {
	switch r.Phase {
	case Live:
		return r.State > lifecycle.Absent && r.State < lifecycle.Gone
	case Creating, Deleting:
		return r.State <= lifecycle.Gone
	}
	return false
}

func sortBySeq(records []Record) {
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
}
