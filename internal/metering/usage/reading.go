package usage

import (
	"fmt"
	"strings"
)

// Field is one thing that is read of a VM.
type Field uint8

// Fields. The first five are counters: they are cumulative and grow while an incarnation lives. The others are
// levels, which hold until the next reading.
const (
	CPU         Field = iota // ns of CPU time, of the VMM and its guest
	DiskRead                 // bytes that the guest read, over all disks
	DiskWritten              // bytes that the guest wrote, over all disks
	NetReceived              // bytes that the guest received, over all interfaces
	NetSent                  // bytes that the guest sent, over all interfaces
	Resident                 // bytes of memory that the VMM held
	Allocated                // bytes of memory that the VM was promised

	Fields   = int(Allocated) + 1 // how many there are
	Counters = int(NetSent) + 1   // how many of them are counters
)

var fieldNames = [Fields]string{"cpu", "disk_read", "disk_written", "net_received", "net_sent", "resident", "allocated"}

// IsCounter says whether f is cumulative; else it is a level.
func (f Field) IsCounter() bool { return int(f) < Counters }

// String is the field's name, as it stands in exports.
func (f Field) String() string {
	if int(f) >= Fields {
		return fmt.Sprintf("field %d", uint8(f))
	}
	return fieldNames[f]
}

// Set is a set of fields.
type Set uint8

// Sets of fields.
const (
	All         Set = 1<<Fields - 1
	AllCounters Set = 1<<Counters - 1
)

// SetOf returns the set of the given fields.
func SetOf(fields ...Field) Set {
	var s Set
	for _, f := range fields {
		s |= 1 << f
	}
	return s
}

// Has says whether f is in s.
func (s Set) Has(f Field) bool { return s>>f&1 == 1 }

// String lists the fields of s, separated by commas.
func (s Set) String() string {
	var names []string
	for f := range Field(Fields) {
		if s.Has(f) {
			names = append(names, f.String())
		}
	}
	return strings.Join(names, ",")
}

// Reading is what was seen of one incarnation at one moment. A field that is not known was not seen: nobody can say
// what it was. The zero Reading knows nothing. Readings compare with ==.
type Reading struct {
	known  Set
	values [Fields]uint64 // zero where not known
}

// Known is the set of fields that were seen.
func (r Reading) Known() Set { return r.known }

// Value returns what was seen of f, and whether it was.
func (r Reading) Value(f Field) (uint64, bool) { return r.values[f], r.known.Has(f) }

// Put notes that f was seen with value v.
func (r *Reading) Put(f Field, v uint64) {
	r.known |= 1 << f
	r.values[f] = v
}

// Forget makes f UNKNOWN.
func (r *Reading) Forget(f Field) {
	r.known &^= 1 << f
	r.values[f] = 0
}

// With returns r with f seen as v.
func (r Reading) With(f Field, v uint64) Reading {
	r.Put(f, v)
	return r
}

// String writes r for people.
func (r Reading) String() string {
	var parts []string
	for f := range Field(Fields) {
		if v, ok := r.Value(f); ok {
			parts = append(parts, fmt.Sprintf("%s=%d", f, v))
		}
	}
	return "{" + strings.Join(parts, " ") + "}"
}
