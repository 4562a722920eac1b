package docgen

import (
	"regexp"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest/toy"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/docgen/results"
)

func TestRewrite(t *testing.T) {
	regions := map[string]string{"a": "new a\n", "b": "| b |"}
	text := "head\n<!-- generated: a -->\nold\n<!-- /generated -->\nmiddle\n<!-- generated: b -->\n<!-- /generated -->\n"
	want := "head\n<!-- generated: a -->\n\nnew a\n\n<!-- /generated -->\nmiddle\n<!-- generated: b -->\n\n| b |\n\n<!-- /generated -->\n"
	got, err := Rewrite(text, regions)
	if err != nil || got != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
	if again, err := Rewrite(got, regions); err != nil || again != got {
		t.Errorf("a second time changes it: %q, %v", again, err)
	}
}

func TestRewriteLeavesMeasurements(t *testing.T) {
	text := "<!-- generated: bench -->\n1.07\n<!-- /generated -->\n"
	if got, err := Rewrite(text, nil); err != nil || got != text {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRewriteRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a part that nobody makes": "<!-- generated: z -->\n<!-- /generated -->\n",
		"a part without end":       "<!-- generated: a -->\n",
		"an end without part":      "<!-- /generated -->\n",
		"two begins, one end":      "<!-- generated: a -->\n<!-- generated: a -->\n<!-- /generated -->\n",
	} {
		if got, err := Rewrite(text, map[string]string{"a": ""}); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

type described struct {
	types.Backend
	caps types.Capabilities
}

func (d described) Capabilities() types.Capabilities { return d.caps }

func TestBackendMatrix(t *testing.T) {
	caps := types.Capabilities{
		MaxVCPUs: 8, MinMemoryBytes: 16 << 20, MaxDisks: 2, MaxNetworks: 1,
		Fields: map[types.Field]types.Support{
			types.FieldInitrd:      {OK: true},
			types.FieldConsoleType: {OK: true, Values: []string{"serial"}},
			types.FieldHotplug:     {Note: "not yet observed to work"},
		},
	}
	got := backendMatrix([]backend.Descriptor{{Name: "x", New: func(backend.Host) (types.Backend, error) { return described{caps: caps}, nil }}})
	for _, want := range []string{
		"| field | x |", "| vCPUs | up to 8 |", "| memory | from 16 MiB |", "| `config.boot.initrd_path` | yes |",
		"| `config.console.console_type` | `serial` |", "| `config.memory.hotplug_enabled` | no: not yet observed to work |",
		"| `config.cpu.topology` | no |",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the matrix lacks %q:\n%s", want, got)
		}
	}
}

// One line in the list is all that the documentation needs of a backend.
func TestDocumentationOfAFourth(t *testing.T) {
	list := append(backend.All(), backend.Descriptor{Name: toy.Name, New: func(backend.Host) (types.Backend, error) { return toy.New(fake.NewHost()), nil }})
	head, _, _ := strings.Cut(backendMatrix(list), "\n")
	if !strings.HasSuffix(head, "| toy |") {
		t.Errorf("the matrix begins with %s", head)
	}
	record := results.Record{}
	if got := record.Table(chapters(), []string{toy.Name}); !strings.Contains(got, "| A | toy |") || !strings.Contains(got, "not run: there is no result") {
		t.Errorf("a backend that was not run is not in the table:\n%s", got)
	}
}

// What is not known of a backend has a reason, and every sentence has its row.
func TestConformanceTableHasNoUnexplainedHole(t *testing.T) {
	record, err := results.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	for column, run := range record {
		if run.VMM == "" || run.VMM == "unknown" || run.Host == "" || len(run.Results) == 0 {
			t.Errorf("%s: it does not say on what it ran: %+v", column, run)
		}
	}
	got := conformanceTable()
	number := regexp.MustCompile(`\(([0-9]+)\) `)
	explained := map[string]bool{}
	for line := range strings.Lines(got) {
		if m := number.FindStringSubmatch(line); m != nil && strings.HasPrefix(line, "(") && len(line) > len(m[0])+5 {
			explained[m[1]] = true
		}
	}
	columns := len(record)
	for _, name := range backend.Names() {
		if !strings.Contains(got, name) {
			t.Errorf("the backend %s is not in the table", name)
		}
	}
	cell := regexp.MustCompile(`^(yes|(?:-|\*\*no\*\*) \(([0-9]+)\))$`)
	for _, c := range conformance.Chapters() {
		if !strings.Contains(got, "| **"+c.Title+"** |\n") {
			t.Errorf("there is no chapter %s", c.Title)
		}
		for _, s := range c.Sentences {
			_, rest, ok := strings.Cut(got, "\n| "+s+" | ")
			row, _, _ := strings.Cut(rest, " |\n")
			cells := strings.Split(row, " | ")
			if !ok || len(cells) < columns {
				t.Errorf("%q has %d of %d columns", s, len(cells), columns)
			}
			for _, text := range cells {
				if m := cell.FindStringSubmatch(text); m == nil || m[2] != "" && !explained[m[2]] {
					t.Errorf("%q has the unexplained hole %q", s, text)
				}
			}
		}
	}
}

func TestMatrixHasEveryField(t *testing.T) {
	seen := map[types.Field]bool{}
	for _, f := range types.Fields() {
		seen[f] = true
	}
	for _, d := range backend.All() {
		for f := range capabilities(d).Fields {
			if !seen[f] {
				t.Errorf("%s speaks of %s, which types.Fields does not list", d.Name, f)
			}
		}
	}
	if len(seen) != len(types.Fields()) {
		t.Error("types.Fields has a field twice")
	}
}
