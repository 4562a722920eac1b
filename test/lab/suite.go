package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Suite is a choice of tests.
type Suite struct {
	Packages []string // directories of packages, relative to the source tree
	Run      string   // as for go test -run; "" for all
	Timeout  time.Duration
	Env      []string // for the tests
}

// Report is what came of the tests of one package; a subtest counts as a test.
type Report struct {
	Package                 string
	Passed, Failed, Skipped int
	Code                    int // exit code of the test binary
	Took                    time.Duration
}

// Good says that the tests ran to their end and none failed. A package whose tests were all skipped is good too.
func (r Report) Good() bool { return r.Code == 0 && r.Failed == 0 }

func (r Report) String() string {
	verdict := "ok  "
	if !r.Good() {
		verdict = "FAIL"
	}
	return fmt.Sprintf("%s %-36s %3d passed, %d failed, %d skipped in %s (exit code %d)",
		verdict, r.Package, r.Passed, r.Failed, r.Skipped, r.Took.Round(time.Second), r.Code)
}

// kernelArgs are for the kernels of guests, see cpu.
const kernelArgs = "noxsave"

// Variable is that which tells tests where a real program is.
func Variable(name string) string {
	return "METALD_TEST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Environment are the variables that tell tests what a machine with p on its second disk has.
func (p Payload) Environment() []string {
	env := []string{"METALD_TEST_KVM=1", "METALD_TEST_KERNEL_ARGS=" + kernelArgs, "METALD_TEST_STUBS=" + insideBin, "METALD_TEST_METALD=" + path.Join(insideBin, "metald"), "METALD_TEST_BILLAGED=" + path.Join(insideBin, "billaged")}
	for name := range p.Programs {
		env = append(env, Variable(name)+"="+path.Join(insideBin, name))
	}
	if p.Assets != "" {
		env = append(env, "METALD_TEST_ASSETS="+insideAssets)
	}
	return env
}

// Test runs a suite in a machine that has its packages' tests, and writes what they say to out and, by package, to
// files in the directory results. An error says that the machine gave way; failed tests are in the reports.
func (m *Machine) Test(ctx context.Context, s Suite, results string, out io.Writer) ([]Report, error) {
	if err := os.MkdirAll(results, 0o755); err != nil {
		return nil, err
	}
	var reports []Report
	for _, pkg := range s.Packages {
		r, text, err := m.testPackage(ctx, s, pkg, out)
		if werr := os.WriteFile(filepath.Join(results, fileName(pkg)), text, 0o644); werr != nil {
			return reports, werr
		}
		if err != nil {
			return reports, fmt.Errorf("tests of %s: %w", pkg, err)
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func fileName(pkg string) string {
	return strings.ReplaceAll(pkg, "/", "-") + ".txt"
}

// testPackage runs a test binary as a service of its own: with a cgroup of its own, and an end to all that it leaves.
func (m *Machine) testPackage(ctx context.Context, s Suite, pkg string, out io.Writer) (Report, []byte, error) {
	argv := []string{
		"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", "--property=Delegate=yes",
		"--property=LimitNOFILE=65536", "--property=TasksMax=infinity", "--working-directory=" + path.Join(insideTree, pkg),
	}
	for _, v := range s.Env {
		argv = append(argv, "--setenv="+v)
	}
	argv = append(argv, path.Join(insideTree, pkg, testBinary(pkg)), "-test.v", "-test.timeout="+s.Timeout.String())
	if s.Run != "" {
		argv = append(argv, "-test.run="+s.Run)
	}
	var text bytes.Buffer
	fmt.Fprintf(out, "=== PACKAGE %s\n", pkg)
	began := time.Now()
	code, err := m.Run(ctx, Command{Argv: argv, Output: io.MultiWriter(&text, out)})
	r := Report{Package: pkg, Code: code, Took: time.Since(began)}
	r.count(text.Bytes())
	return r, text.Bytes(), err
}

var verdictLine = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): `)

func (r *Report) count(text []byte) {
	for _, m := range verdictLine.FindAllSubmatch(text, -1) {
		switch string(m[1]) {
		case "PASS":
			r.Passed++
		case "FAIL":
			r.Failed++
		case "SKIP":
			r.Skipped++
		}
	}
}
