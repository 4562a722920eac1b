package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// program is whose settings are read.
type program struct {
	name    string
	prefix  string            // of its variables
	retired map[string]string // by the name of the flag, why a setting is no more
	absent  map[string]string // by beginnings of names, why this build does not read them
}

func metald() program { return program{"metald", Prefix, retired(), absent()} }

// env is the rule between flags and the environment.
func (p program) env(flag string) string {
	return p.prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// retired maps settings that metald once read, by the name of the flag, to what replaced them. Names stay here for
// ever: a setting that is ignored in silence is worse than a start that fails.
func retired() map[string]string {
	shared := "metald starts one VMM per VM and connects to none that runs already; choose the hypervisor with " + EnvName("backend") +
		", or for one VM with the field backend of CreateVm"
	return map[string]string{"ch-endpoint": shared, "socket": shared}
}

// absent maps beginnings of names that documentation of metald mentions to why this build does not read them.
func absent() map[string]string {
	return map[string]string{
		"billing-": "this build does not meter what VMs use",
		"otel-":    "this build exports no telemetry",
	}
}

// whyUnknown says what a reader should do about a name (as a flag has it) that no field has; show turns the
// name of a field into what the reader would write.
func (p program) whyUnknown(name string, fields []string, show func(string) string) string {
	if hint, ok := p.retired[name]; ok {
		return "this setting is no more: " + hint
	}
	for prefix, why := range p.absent {
		if strings.HasPrefix(name, prefix) {
			return why
		}
	}
	if near := nearest(name, fields); near != "" {
		return fmt.Sprintf("there is no such setting; did you mean %s?", show(near))
	}
	return "there is no such setting; " + p.name + " -help lists them"
}

// variables returns the variables of environ that are addressed to p. Of a name that stands twice the last counts, as
// it does for programs that are started with it.
func (p program) variables(environ []string) map[string]string {
	vars := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, p.prefix) {
			vars[name] = value
		}
	}
	return vars
}

// strayVariables returns an error for each variable that no field reads.
func (p program) strayVariables(vars map[string]string, fields []Field) []error {
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	var errs []error
	for _, env := range slices.Sorted(maps.Keys(vars)) {
		name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, p.prefix), "_", "-"))
		if !slices.Contains(names, name) || env != p.env(name) {
			errs = append(errs, fmt.Errorf("%s: %s", env, p.whyUnknown(name, names, p.env)))
		}
	}
	return errs
}

// nearest returns the name that takes the fewest edits to reach, or "" where none is near.
func nearest(name string, names []string) string {
	best, least := "", len(name)/2+1
	for _, n := range names {
		if d := distance(name, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance counts the insertions, deletions and substitutions of bytes between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
