package results

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Chapter is a group of sentences of the suite.
type Chapter struct {
	Title     string
	Sentences []string
}

// Table prints a record: what the columns are, sentence by sentence what came of it, and what the holes are. backends are
// those that have a column whether or not there is a result, in their order.
func (r Record) Table(chapters []Chapter, backends []string) string {
	t := table{record: r, notes: map[string]int{}}
	t.columns = r.columns(backends)
	total := 0
	for _, c := range chapters {
		total += len(c.Sentences)
	}
	t.legend(chapters, total)
	for _, c := range chapters {
		t.row("**" + c.Title + "**")
		for _, s := range c.Sentences {
			cells := []string{s}
			for _, column := range t.columns {
				cells = append(cells, t.cell(column, s))
			}
			t.row(cells...)
		}
	}
	t.footnotes()
	return t.out.String()
}

// columns are those of the record and of backends without any, in the order of the table.
func (r Record) columns(backends []string) []Column {
	var all []Column
	for c := range r {
		all = append(all, c)
	}
	for _, name := range backends {
		if !slices.ContainsFunc(all, func(c Column) bool { return c.Backend == name }) {
			all = append(all, Column{Backend: name})
		}
	}
	rank := func(c Column) int { return slices.Index(backends, c.Backend) } // -1 is for those that do not ship
	slices.SortFunc(all, func(a, b Column) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Backend, b.Backend), order(a)-order(b), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}

// order has stand-ins before the real thing, and the lab last.
func order(c Column) int {
	n := 0
	if c.Lab {
		n += 2
	}
	if !c.StandIn() {
		n++
	}
	return n
}

// StandIn says that it was not the VMM itself that ran, but what stands in for it in tests.
func (c Column) StandIn() bool { return strings.HasPrefix(c.Kind, "stub") }

// name says for people what a column is.
func (c Column) name() string {
	s := c.Backend
	if c.StandIn() {
		s = "stand-in for " + s
	}
	if _, how, ok := strings.Cut(c.Kind, "-"); ok {
		s += ", " + how
	}
	if c.Lab {
		s += ", KVM lab"
	}
	return s
}

type table struct {
	record  Record
	columns []Column
	notes   map[string]int // number of each reason
	out     strings.Builder
}

func (t *table) row(cells ...string) { fmt.Fprintf(&t.out, "| %s |\n", strings.Join(cells, " | ")) }

func letter(i int) string { return string(rune('A' + i)) }

func (t *table) legend(chapters []Chapter, total int) {
	t.row("", "on", "VMM", "host", "last run", "holds")
	t.row("---", "---", "---", "---", "---", "---")
	head, line := []string{fmt.Sprintf("%d sentences", total)}, []string{"---"}
	for i, c := range t.columns {
		head, line = append(head, letter(i)), append(line, "---")
		run := t.record[c]
		if run == nil {
			run = &Run{}
		}
		holds := 0
		for _, chapter := range chapters {
			for _, s := range chapter.Sentences {
				if run.Results[s].Verdict == Yes {
					holds++
				}
			}
		}
		vmm := cmp.Or(run.VMM, "-")
		if c.StandIn() {
			vmm = "says " + vmm
		}
		t.row(letter(i), c.name(), vmm, cmp.Or(run.Host, "-"), cmp.Or(run.Last(), "never"), fmt.Sprintf("%d of %d", holds, total))
	}
	t.out.WriteByte('\n')
	t.row(head...)
	t.row(line...)
}

// cell is yes, or no or a dash with the number of what explains it.
func (t *table) cell(c Column, sentence string) string {
	run := t.record[c]
	if run == nil || len(run.Results) == 0 {
		return "- " + t.note("not run: there is no result of this backend")
	}
	result, ok := run.Results[sentence]
	switch {
	case !ok:
		return "- " + t.note("not run since "+run.Last())
	case result.Verdict == Yes:
		return "yes"
	case result.Verdict == No:
		return "**no** " + t.note(fmt.Sprintf("failed on %s: %s", result.Date, result.Why))
	}
	return "- " + t.note(result.Why)
}

func (t *table) note(text string) string {
	text = strings.ReplaceAll(text, "|", `\|`)
	n, ok := t.notes[text]
	if !ok {
		n = len(t.notes) + 1
		t.notes[text] = n
	}
	return fmt.Sprintf("(%d)", n)
}

func (t *table) footnotes() {
	texts := make([]string, len(t.notes))
	for text, n := range t.notes {
		texts[n-1] = text
	}
	for i, text := range texts {
		fmt.Fprintf(&t.out, "\n(%d) %s\n", i+1, text)
	}
}
