package scripts

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

var update = flag.Bool("update", false, "write what the first VMM answers into the scripts; the others must answer the same")

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

// TestScripts runs each script of testdata on each VMM. All are held to the one transcript that stands in the script.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for i, v := range harness.VMMs() {
		t.Run(v.Name, func(t *testing.T) {
			if v.Real && testing.Short() {
				t.Skip("short: guests without KVM are slow")
			}
			site := harness.NewSite(t, v)
			for _, file := range scripts {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
					runScript(t, site, v, file, *update && i == 0)
				})
			}
		})
	}
}

func runScript(t *testing.T, site harness.Site, v harness.VMM, file string, update bool) {
	w := newWorld(t, site, v)
	testscript.RunT(inPlace{t}, testscript.Params{
		Files: []string{file}, UpdateScripts: update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			w.transcript = filepath.Join(env.WorkDir, "transcript")
			return os.WriteFile(w.transcript, nil, 0o644)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"metald": w.metald, "api": w.api, "console": w.console, "await": w.await, "kill-vmm": w.killVMM,
		},
	})
}

// inPlace has testscript run a script in the test's own goroutine, so that its commands may fail the test.
type inPlace struct{ *testing.T }

func (p inPlace) Run(_ string, f func(testscript.T)) { f(p) }
func (p inPlace) Parallel()                          {}
func (p inPlace) Verbose() bool                      { return testing.Verbose() }
