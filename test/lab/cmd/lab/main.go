// Command lab runs tests in the KVM lab. Run it in metald's source tree:
//
//	go run ./test/lab/cmd/lab -run Conformance -packages ./internal/backend/qemu
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab"
)

// options are those of the command line.
type options struct {
	run, packages, assets, dir string
	timeout                    time.Duration
	keep                       bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := work(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "lab:", err)
		}
		stop()
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.StringVar(&o.run, "run", "", "run the tests that match this `pattern`, as go test -run")
	flags.StringVar(&o.packages, "packages", "", "`packages` of tests, by commas; empty is those that need a host like this one")
	flags.StringVar(&o.assets, "assets", "build/lab/assets", "the `directory` of guests' kernel and root disk")
	flags.StringVar(&o.dir, "dir", "build/lab", "the `directory` for all that the lab makes")
	flags.DurationVar(&o.timeout, "timeout", 20*time.Minute, "how long the tests of one package may take")
	flags.BoolVar(&o.keep, "keep", false, "keep the disks of this run")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	}
	return o, nil
}

func work(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	image, err := lab.MakeImage(ctx, o.dir, out)
	if err != nil {
		return err
	}
	run, err := os.MkdirTemp(o.dir, "run-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintf(out, "lab: the disks are kept in %s\n", run)
	} else {
		defer os.RemoveAll(run)
	}
	payload, err := choose(ctx, o)
	if err != nil {
		return err
	}
	disk := filepath.Join(run, "lab.raw")
	began := time.Now()
	if err := lab.Pack(ctx, disk, payload); err != nil {
		return err
	}
	fmt.Fprintf(out, "lab: packed %d packages in %s\n", len(payload.Tests), since(began))
	return test(ctx, o, payload, lab.Config{Image: image, Disk: disk, Dir: run}, out)
}

// test boots a machine, runs the tests in it and tells what came of them.
func test(ctx context.Context, o options, payload lab.Payload, cfg lab.Config, out io.Writer) (err error) {
	m, err := lab.New(ctx, cfg)
	if err != nil {
		return err
	}
	if o.keep {
		defer m.PowerLoss()
	} else {
		defer func() { err = errors.Join(err, m.Close()) }()
	}
	began := time.Now()
	if err := m.Boot(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "lab: the machine came up in %s\n", since(began))
	var reports []lab.Report
	good := true
	for _, pkg := range payload.Tests {
		suite := lab.Suite{Packages: []string{pkg}, Run: o.pattern(pkg), Timeout: o.timeout, Env: payload.Environment()}
		var more []lab.Report
		if more, err = m.Test(ctx, suite, filepath.Join(o.dir, "results"), out); err != nil {
			break
		}
		reports = append(reports, more...)
	}
	for _, r := range reports {
		fmt.Fprintln(out, r)
		good = good && r.Good()
	}
	good = good && err == nil
	fmt.Fprintf(out, "lab: all in %s; what each package said is in %s\n", since(began), filepath.Join(o.dir, "results"))
	if err == nil && !good {
		return errors.New("there are failures")
	}
	return err
}

func since(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Millisecond) }

// needy are the packages whose tests need a host like the lab's, and which of their tests do; "" is all.
var needy = map[string]string{
	"internal/backend/cloudhypervisor": "Real|^TestConformance$/^cloudhypervisor",
	"internal/backend/firecracker":     "Real|^TestConformance$/^firecracker",
	"internal/backend/qemu":            "KVM",
	"internal/host/cgroup":             "",
	"internal/host/jail":               "",
	"internal/vmmprocess":              "",
	"test/metering":                    "TestTheBill/real-(firecracker|cloudhypervisor)|TestKilled",
}

// patterns are for go list.
func (o options) patterns() []string {
	if o.packages != "" {
		return strings.Split(o.packages, ",")
	}
	var all []string
	for _, pkg := range slices.Sorted(maps.Keys(needy)) {
		all = append(all, "./"+pkg)
	}
	return all
}

// pattern chooses tests of a package.
func (o options) pattern(pkg string) string {
	if o.run != "" || o.packages != "" {
		return o.run
	}
	return needy[pkg]
}

// choose finds what is to be packed.
func choose(ctx context.Context, o options) (lab.Payload, error) {
	p := lab.Payload{Source: ".", Assets: o.assets, Commands: map[string]string{"metald": "./cmd/api", "billaged": "./cmd/billaged"}, Programs: map[string]string{}}
	stubs, err := list(ctx, "./internal/backend/stubvmm/cmd/...")
	if err != nil {
		return p, err
	}
	for _, pkg := range stubs {
		p.Commands[filepath.Base(pkg.dir)] = "./" + pkg.dir
	}
	found, err := list(ctx, o.patterns()...)
	if err != nil {
		return p, err
	}
	for _, pkg := range found {
		if pkg.tests {
			p.Tests = append(p.Tests, pkg.dir)
		}
	}
	if len(p.Tests) == 0 {
		return p, fmt.Errorf("%s has no tests", o.packages)
	}
	for _, name := range []string{"firecracker", "jailer", "cloud-hypervisor"} {
		path := os.Getenv(lab.Variable(name))
		if path == "" {
			path, _ = exec.LookPath(name) // "" where there is none
		}
		if path != "" {
			p.Programs[name] = path
		}
	}
	return p, nil
}

// pkg is a package of the source tree.
type pkg struct {
	dir   string // relative to the tree
	tests bool
}

func list(ctx context.Context, patterns ...string) ([]pkg, error) {
	const format = "{{.Module.Dir}}\t{{.Dir}}\t{{len .TestGoFiles}}{{len .XTestGoFiles}}"
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", format}, patterns...)...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(patterns, " "), err)
	}
	var found []pkg
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		dir, err := filepath.Rel(fields[0], fields[1])
		if err != nil {
			return nil, err
		}
		found = append(found, pkg{dir: filepath.ToSlash(dir), tests: fields[2] != "00"})
	}
	return found, nil
}
