package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// goroutines lists every file that may start one, and who waits for it. Outside of the list, things that run have a
// Run(ctx) error that blocks.
var goroutines = map[string]string{
	"cmd/demo/play.go":                            "the console's watcher: cleanUp waits for it",
	"cmd/demo/stage.go":                           "waits for metald, and so ends with it",
	"cmd/guest-init/end.go":                       "the guest's last writes: bounded by the end of the machine",
	"cmd/guest-init/main.go":                      "watchers of the power button: they end with the machine",
	"cmd/guest-init/power.go":                     "readers of keys: they end with the machine",
	"internal/api/run.go":                         "the server: Run waits for it",
	"internal/backend/qemu/adopt.go":              "the machine's watcher: ends with the process or Release, and closes Exited",
	"internal/backend/firecracker/adopt.go":       "the machine's runner: ends with the process or Release, which waits for it",
	"internal/backend/firecracker/launch.go":      "likewise",
	"internal/backend/firecracker/machine.go":     "waits for an end during a launch; the function that onExit returns stops it and waits",
	"internal/backend/cloudhypervisor/machine.go": "looks after one VMM; Release and the end of its process stop it, and both are waited for; likewise what onExit starts",
	"internal/backend/qemu/create.go":             "the machine's watcher: ends with the process or Release, and closes Exited",
	"internal/metering/wal/run.go":                "the log's writer: Run waits for it, up to the bound that a disk which hangs is given",
	"internal/daemon/stages.go":                   "every part that runs: runStages waits for each in order",
}

// testsOnly are folders of which nothing ships.
var testsOnly = []string{"test/**", "internal/backend/backendtest/**", "internal/backend/conformance", "internal/backend/fake", "internal/backend/stubvmm/**"}

func ships(name string) bool {
	return !strings.HasSuffix(name, "_test.go") && !matchesAny(testsOnly, path.Dir(name))
}

func TestGoroutinesHaveOwners(t *testing.T) {
	used := map[string]bool{}
	eachGoFile(t, func(name string, fset *token.FileSet, file *ast.File) {
		if !ships(name) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if stmt, ok := n.(*ast.GoStmt); ok {
				used[name] = true
				if goroutines[name] == "" {
					t.Errorf("%s starts a goroutine: who stops it, and who waits for it? The table in internal/arch wants to know", fset.Position(stmt.Pos()))
				}
			}
			return true
		})
	})
	for name := range goroutines {
		if !used[name] {
			t.Errorf("%s starts no goroutine any more; take it out of the table", name)
		}
	}
}

func TestNoInit(t *testing.T) {
	eachGoFile(t, func(name string, fset *token.FileSet, file *ast.File) {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init runs before anybody asked for it; call it from where it is needed", fset.Position(f.Pos()))
			}
		}
	})
}

// TestNoSleepInTests finds sleeps that wait for something to have happened. One between two looks at it, in a loop,
// is none; nor is one that says in its line what it stands for, such as a slow client.
func TestNoSleepInTests(t *testing.T) {
	eachGoFile(t, func(name string, fset *token.FileSet, file *ast.File) {
		// A stand-in for a VMM may take the time that a VMM takes.
		if ships(name) || strings.HasPrefix(name, "internal/backend/stubvmm/") || imports(file, "testing/synctest") {
			return
		}
		excused := map[int]bool{} // lines with a comment, or in a loop
		for _, group := range file.Comments {
			excused[fset.Position(group.Pos()).Line] = true
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if loop, ok := n.(*ast.ForStmt); ok {
				for line := fset.Position(loop.Pos()).Line; line <= fset.Position(loop.End()).Line; line++ {
					excused[line] = true
				}
			}
			return true
		})
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && isCall(call, "time", "Sleep") && !excused[fset.Position(call.Pos()).Line] {
				t.Errorf("%s: a test that sleeps is slow or flaky; wait for the thing, with a deadline", fset.Position(call.Pos()))
			}
			return true
		})
	})
}

// imports says whether a file imports path. With testing/synctest, sleeping costs no time and waits for exactly what
// it should.
func imports(file *ast.File, path string) bool {
	for _, spec := range file.Imports {
		if spec.Path.Value == strconv.Quote(path) {
			return true
		}
	}
	return false
}

func isCall(call *ast.CallExpr, pkg, name string) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// eachGoFile calls f for every Go file that a person wrote.
func eachGoFile(t *testing.T, f func(name string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	for _, name := range tree(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, "gen/") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		f(name, fset, file)
	}
}
