package firecracker

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

const flows = "../../../docs/firecracker-process-flows.md"

// The flows that the documentation shows are those of the code. -update writes them.
func TestFlowsAreTheDocumentedOnes(t *testing.T) {
	l := &launch{
		backend:     &Backend{cfg: Config{Jail: &cage.Config{MaxOpenFiles: 2048}}},
		req:         types.CreateRequest{ID: "web", Incarnation: 1, Spec: quickStart(), Disks: []string{"/any"}, UID: 700000, GID: 700000},
		firecracker: binary{Path: "/usr/local/bin/firecracker"}, cgroups: 2,
		home: home{private: private{Jail: &jailed{Base: "/var/lib/metald/jail", Exec: "firecracker", ID: "web-1", Cgroup: "metald/fe01-2a"}}},
	}
	calls, err := l.translate()
	must(t, err)
	var list strings.Builder
	for _, cl := range calls {
		fmt.Fprintf(&list, "%s %s\n", cl, cl.Body)
	}
	checkPart(t, "calls", list.String())
	argv, err := l.argv()
	must(t, err)
	checkPart(t, "argv", "jailer "+strings.ReplaceAll(strings.Join(argv, " "), " --", " \\\n  --")+"\n")
}

// checkPart compares a block of the flows' page.
func checkPart(t *testing.T, name, want string) {
	t.Helper()
	page, err := os.ReadFile(flows)
	must(t, err)
	block := regexp.MustCompile("(?s)(<!-- checked: " + name + " -->\n```\n)(.*?)(```\n<!-- /checked -->)")
	m := block.FindSubmatch(page)
	if m == nil {
		t.Fatalf("%s has no checked part %q", flows, name)
	}
	if *update {
		must(t, os.WriteFile(flows, block.ReplaceAll(page, []byte("${1}"+strings.ReplaceAll(want, "$", "$$")+"${3}")), 0o644))
		return
	}
	if diff := cmp.Diff(want, string(m[2])); diff != "" {
		t.Errorf("%s, %s (-code +page; go test -update writes it):\n%s", flows, name, diff)
	}
}
