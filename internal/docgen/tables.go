package docgen

import (
	"fmt"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/docgen/results"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// backendMatrix has a row per field whose support differs and a column per backend.
func backendMatrix(list []backend.Descriptor) string {
	head, line := []string{"field"}, []string{"---"}
	var caps []types.Capabilities
	for _, d := range list {
		head, line = append(head, d.Name), append(line, "---")
		caps = append(caps, capabilities(d))
	}
	rows := [][]string{head, line}
	add := func(name string, cell func(types.Capabilities) string) {
		row := []string{name}
		for _, c := range caps {
			row = append(row, cell(c))
		}
		rows = append(rows, row)
	}
	add("vCPUs", func(c types.Capabilities) string { return fmt.Sprintf("up to %d", c.MaxVCPUs) })
	add("memory", func(c types.Capabilities) string { return fmt.Sprintf("from %d MiB", c.MinMemoryBytes>>20) })
	add("disks", func(c types.Capabilities) string { return fmt.Sprintf("up to %d", c.MaxDisks) })
	add("network interfaces", func(c types.Capabilities) string { return fmt.Sprintf("up to %d", c.MaxNetworks) })
	for _, f := range types.Fields() {
		add("`"+string(f)+"`", func(c types.Capabilities) string { return support(c.Fields[f]) })
	}
	return table(rows)
}

// conformanceTable is what came of each sentence of the suite on each backend.
func conformanceTable() string {
	record, err := results.Recorded()
	if err != nil {
		panic(err) // the record is part of this build
	}
	return record.Table(chapters(), backend.Names())
}

func chapters() []results.Chapter {
	var all []results.Chapter
	for _, c := range conformance.Chapters() {
		all = append(all, results.Chapter(c))
	}
	return all
}

// capabilities asks a backend that is made for no host; making it touches none.
func capabilities(d backend.Descriptor) types.Capabilities {
	b, err := d.New(backend.Host{QEMUAccel: "auto"})
	if err != nil {
		panic(fmt.Sprintf("docgen: the backend %s cannot be described: %v", d.Name, err))
	}
	return b.Capabilities()
}

func support(s types.Support) string {
	text := "no"
	if s.OK {
		text = "yes"
		if s.Values != nil {
			text = "`" + strings.Join(s.Values, "`, `") + "`"
		}
	}
	if s.Note != "" {
		text += ": " + s.Note
	}
	return text
}

// transitions is the table of internal/vm/lifecycle.
func transitions() string {
	rows := [][]string{{"state", "event", "next state"}, {"---", "---", "---"}}
	for _, edge := range lifecycle.Edges() {
		rows = append(rows, edge[:])
	}
	return table(rows)
}

func table(rows [][]string) string {
	var b strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}
