// Package results keeps what came of the conformance suite: on which VMM, where, when, and what each sentence was found to
// be. `make conformance` renews it, some of it is slow to get, and docs/backend-support.md is printed from it.
package results

import (
	"bytes"
	_ "embed" // the record
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Path is where the record is, from the root of the tree.
const Path = "internal/docgen/results/conformance.json"

//go:embed conformance.json
var recorded []byte

// Recorded returns the record of this tree.
func Recorded() (Record, error) { return Decode(recorded) }

// Record is what is known, by column.
type Record map[Column]*Run

// Column names a backend, the kind of test of it ("stub-jailed"; "" where there is one only), and where that ran.
type Column struct {
	Backend, Kind string
	Lab           bool
}

// String returns "qemu/stub", with "@lab" behind it for a run in the KVM lab.
func (c Column) String() string {
	s := c.Backend
	if c.Kind != "" {
		s += "/" + c.Kind
	}
	if c.Lab {
		s += "@lab"
	}
	return s
}

// MarshalText is String.
func (c Column) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (c *Column) UnmarshalText(text []byte) error {
	s, lab := strings.CutSuffix(string(text), "@lab")
	c.Backend, c.Kind, _ = strings.Cut(s, "/")
	c.Lab = lab
	if c.Backend == "" {
		return fmt.Errorf("the column %q names no backend", text)
	}
	return nil
}

// Run is a column.
type Run struct {
	VMM     string            `json:"vmm"`  // with its version
	Host    string            `json:"host"` // its kernel
	Results map[string]Result `json:"results"`
}

// Last is the date of the newest result, "" if there is none.
func (r *Run) Last() string {
	last := ""
	for _, result := range r.Results {
		last = max(last, result.Date)
	}
	return last
}

// Verdict is what came of a sentence.
type Verdict string

// The verdicts.
const (
	Yes  Verdict = "yes"
	No   Verdict = "no"
	Skip Verdict = "skip"
)

// Result is what came of a sentence, when, and unless it is Yes, why.
type Result struct {
	Verdict Verdict
	Date    string // 2006-01-02
	Why     string
}

// MarshalText returns "skip 2026-11-24 why".
func (r Result) MarshalText() ([]byte, error) {
	return []byte(strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Verdict, r.Date, r.Why))), nil
}

// UnmarshalText is the inverse of MarshalText.
func (r *Result) UnmarshalText(text []byte) error {
	verdict, rest, _ := strings.Cut(string(text), " ")
	r.Verdict = Verdict(verdict)
	r.Date, r.Why, _ = strings.Cut(rest, " ")
	if !slices.Contains([]Verdict{Yes, No, Skip}, r.Verdict) || r.Date == "" || r.Verdict != Yes && r.Why == "" {
		return fmt.Errorf("%q is no result: it needs yes, no or skip, a date and, but for yes, a reason", text)
	}
	return nil
}

// Decode reads a record.
func Decode(text []byte) (Record, error) {
	record := Record{}
	if err := json.Unmarshal(text, &record); err != nil {
		return nil, fmt.Errorf("%s: %w", Path, err)
	}
	return record, nil
}

// Encode is the inverse of Decode. The same record always reads the same.
func (r Record) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(r)
	return b.Bytes(), err
}

// Merge takes in what is not older, sentence by sentence, and forgets sentences that are no more.
func (r Record) Merge(fresh Record, sentences []string) {
	for column, run := range fresh {
		old := r[column]
		if old == nil {
			old = &Run{Results: map[string]Result{}}
			r[column] = old
		}
		if run.Last() < old.Last() {
			continue
		}
		old.VMM, old.Host = run.VMM, run.Host
		maps.Copy(old.Results, run.Results)
	}
	for _, run := range r {
		maps.DeleteFunc(run.Results, func(s string, _ Result) bool { return !slices.Contains(sentences, s) })
	}
}
