package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
)

const module = "github.com/unkeyed/unkey/go/deploy/metald/"

// pkg is what go list says of a package; paths are relative to the module.
type pkg struct {
	ImportPath string
	Doc        string
	Standard   bool
	Module     *struct{ Main bool }
	Imports    []string
	Deps       []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages lists the packages of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Standard,Module,Imports,Deps", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var list []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// Patterns are those of path.Match on module-relative paths; "std" in an allow list stands for the standard library,
// and a pattern ending in /** for a folder and all below.

// mayNotReach forbids that a package reaches another, however many imports lie between.
var mayNotReach = append([]mayNot{
	{"internal/backend/**", "internal/vm", "a backend is told what to do; it does not know who decides"},
	{"internal/backend/**", "internal/vm/store", "what is remembered of a VM is the manager's"},
	{"internal/backend/**", "gen/**", "the domain speaks its own Spec, not the wire's"},
	{"internal/vm", "gen/**", "the domain speaks its own Spec, not the wire's"},
	{"internal/vm/**", "internal/api", "arrows point down"},
	{"internal/**", "test/**", "what ships does not depend on tests"},
	{"cmd/api", "test/**", "what ships does not depend on tests"},
	{"internal/backend/types", "internal/vmmprocess", "the seam has no machinery"},
	{"internal/host/**", "internal/backend/**", "the host's parts serve backends and know none"},
	{"internal/host/**", "internal/vm/**", "the host's parts know no VM, only files, devices and processes"},
	{"internal/vm", "internal/host/cgroup", "what limits a VMM's process is its backend's"},
	{"internal/host/**", "internal/vmmprocess/**", "a jail's names are given to it; the layout is the jailer's"},
	{"internal/metering/**", "internal/billing/**", "the sender knows the wire, not who receives"},
	{"internal/metering/shipper", "internal/metering/ledger", "what is billed elsewhere comes from the log, not from a ledger here"},
	{"internal/metering/shipper", "internal/metering/sampler", "accounts are given to it"},
	{"internal/metering/batch", "internal/metering/wal", "what travels knows no file"},
	{"internal/metering/**", "internal/vm", "what is metered is told to the meter"},
	{"internal/metering/sampler", "internal/vmmprocess", "it reads processes, and neither starts nor ends them"},
	{"internal/metering/sampler", "gen/**", "what is read is written into the log, in the log's words"},
	{"internal/metering/record", "internal/metering/wal", "what records say does not depend on where they are kept; record/thin joins both"},
	{"internal/billing/**", "internal/vm/**", "the receiver runs elsewhere and knows no machine"},
	{"internal/billing/**", "internal/backend/**", "the receiver runs elsewhere and knows no machine"},
	{"internal/billing/store", "gen/**", "the ledger speaks the arithmetic's words, not the wire's"},
	{"cmd/api", "internal/billing/**", "metald sends, and has no ledger of SQLite"},
	{"internal/vmmprocess", "internal/console", "processes and consoles are drained side by side, neither owns the other"},
}, eachBackend(func(folder string) []mayNot {
	return []mayNot{
		{"internal/vm", folder, "the manager knows types.Backend, not who implements it"},
		{"internal/api", folder, "the API knows capabilities as data, not who has them"},
	}
})...)

// onlyFrom lists, for a package, all that may import it.
var onlyFrom = append([]only{
	{"internal/daemon", []string{"cmd/api"}, "the wiring knows every part and no part knows it"},
	{"internal/config", []string{"cmd/api", "cmd/billaged", "internal/billing/service", "internal/daemon", "internal/docgen"}, "parts are given plain values, so that settings have one reader"},
	{"internal/backend", []string{"cmd/api", "internal/daemon", "internal/docgen"}, "who is in the list of backends concerns the wiring alone"},
	{"internal/kernelargs", []string{"internal/backend/*"}, "what a guest's kernel is told is its backend's"},
	{"internal/backend/firecracker/metrics", []string{"internal/backend/firecracker", "internal/backend/firecracker/metrics/fifo"}, "it reads one VMM's stream, and is that backend's alone"},
	{"internal/backend/firecracker/metrics/fifo", []string{"internal/backend/firecracker"}, "it reads one VMM's stream, and is that backend's alone"},
	{"internal/backend/cage", []string{"internal/backend", "internal/backend/*"}, "what keeps VMMs apart is their backends'"},
	{"internal/backend/tally", []string{"internal/backend/*"}, "what a VMM used is its backend's to say"},
	{"internal/backend/program", []string{"internal/backend/*"}, "which program a VMM is concerns its backend"},
	{"internal/kernelimage", []string{"internal/backend/*"}, "what a VMM boots is its backend's"},
	{"internal/backend/fake", testsOnly, "a fake never ships"},
	{"internal/backend/stubvmm/**", testsOnly, "a stub never ships"},
	{"internal/backend/backendtest/**", testsOnly, "what tests need does not ship"},
	{"internal/backend/conformance", append([]string{"internal/docgen"}, testsOnly...), "the conformance table is for tests, and is printed in the docs"},
	{"internal/docgen/results", []string{"internal/docgen", "test/conformance"}, "documentation is made outside of the daemon"},
	{"gen/**", []string{"gen/**", "internal/api", "internal/billing/receiver", "internal/metering/shipper", "cmd/*", "test/**"}, "api/convert.go is the one place between proto and domain; of billing's, receiver/convert.go"},
	{"internal/metering/batch", []string{"internal/metering/shipper", "internal/billing/store"}, "it is the wire between the two"},
	{"internal/billing/service", []string{"cmd/billaged"}, "the wiring knows every part and no part knows it"},
	{"internal/billing/raw", []string{"internal/billing/store", "internal/billing/service"}, "raw batches are kept with the ledger's row, or not at all; the audit reads them"},
	{"internal/metering/sampler", []string{"internal/metering/gauges", "internal/daemon", "test/**"}, "the manager knows vm.Metering, not who implements it"},
	{"internal/vmassets", []string{"cmd/vm-assets", "test/lab"}, "metald boots assets and makes none"},
	{"internal/docgen", []string{"cmd/docgen"}, "documentation is made outside of the daemon"},
}, eachBackend(func(folder string) []only {
	return []only{{folder, []string{"internal/backend"}, "backends are reached through the list"}}
})...)

type mayNot struct{ from, to, why string }

type only struct {
	to   string
	from []string
	why  string
}

// eachBackend makes rules for every backend of the list.
func eachBackend[T any](rules func(folder string) []T) (all []T) {
	for _, name := range backend.Names() {
		all = append(all, rules("internal/backend/"+name)...)
	}
	return all
}

// standardOnly are packages whose dependencies, all the way down, are the standard library and their own list.
var standardOnly = map[string][]string{
	"internal/vm/lifecycle": {},
	"internal/guest":        {},
	"internal/kernelargs":   {},
	"internal/config":       {},
	"internal/backend/types": {
		"internal/vm/lifecycle",
	},
	"internal/backend/firecracker/metrics": {},
	"internal/metering/usage":              {},
	"internal/metering/record": {
		"internal/metering/usage",
	},
	"internal/vmmprocess/jailer": {},
	"internal/metering/wal":      {},
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range mayNotReach {
			if !matches(rule.from, p.name()) || matches(rule.to, p.name()) || matchesAny(testsOnly, p.name()) {
				continue
			}
			for _, dep := range ours(p.Deps) {
				if matches(rule.to, dep) {
					t.Errorf("%s reaches %s: %s", p.name(), dep, rule.why)
				}
			}
		}
		for _, dep := range ours(p.Imports) {
			for _, rule := range onlyFrom {
				if matches(rule.to, dep) && !matchesAny(rule.from, p.name()) {
					t.Errorf("%s imports %s: %s", p.name(), dep, rule.why)
				}
			}
		}
		if strings.HasPrefix(p.name(), "internal/backend/") && !matchesAny(testsOnly, p.name()) {
			noBackendImportsAnother(t, p)
		}
	}
}

func noBackendImportsAnother(t *testing.T, p pkg) {
	for _, dep := range ours(p.Imports) {
		rest, ok := strings.CutPrefix(dep, "internal/backend/")
		name, _, _ := strings.Cut(rest, "/")
		if !ok || rest == "types" || rest == "cage" || rest == "program" || rest == "tally" || matches("internal/backend/"+name+"/**", p.name()) {
			continue
		}
		t.Errorf("%s imports %s: backends do not know each other", p.name(), dep)
	}
}

func TestStandardLibraryOnly(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		allowed, ok := standardOnly[p.name()]
		if !ok {
			continue
		}
		seen++
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			if strings.Contains(first, ".") && !matchesAny(allowed, strings.TrimPrefix(dep, module)) {
				t.Errorf("%s depends on %s; it may use the standard library and %v", p.name(), dep, allowed)
			}
		}
	}
	if seen != len(standardOnly) {
		t.Errorf("%d packages of the table %v exist", seen, standardOnly)
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && !strings.HasPrefix(p.name(), "gen/") && !strings.HasPrefix(p.name(), "test/") {
			t.Errorf("%s has no package comment: what is it for?", p.name())
		}
	}
}

// ours keeps the packages of this module, by relative path.
func ours(paths []string) []string {
	var list []string
	for _, p := range paths {
		if rest, ok := strings.CutPrefix(p, module); ok {
			list = append(list, rest)
		}
	}
	return list
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if matches(p, name) {
			return true
		}
	}
	return false
}

func matches(pattern, name string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/**"); ok {
		return name == folder || strings.HasPrefix(name, folder+"/")
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"internal/vm", "internal/vm", true}, {"internal/vm", "internal/vm/store", false},
		{"internal/vm/**", "internal/vm/store", true}, {"internal/vm/**", "internal/vm", true},
		{"internal/vm/**", "internal/vmmprocess", false}, {"cmd/*", "cmd/api", true},
	} {
		if got := matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("matches(%q, %q) is %t", tt.pattern, tt.name, got)
		}
	}
}
