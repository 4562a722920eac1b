// Command vm-assets makes the kernel and the root disk that the quick start and the tests boot. Run it in metald's source
// tree:
//
//	go run ./cmd/vm-assets -out build/vm-assets
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmassets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "vm-assets:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("vm-assets", flag.ContinueOnError)
	flags.SetOutput(log)
	dir := flags.String("out", "build/vm-assets", "the `directory` for the files")
	kernel := flags.String("kernel", vmassets.KernelGokrazy,
		"gokrazy: from a Go module; micro: built from the distribution's source; or the `path` of a bzImage")
	source := flags.String("source", ".", "the root `directory` of metald's source tree")
	check := flags.Bool("check", false, "make nothing, say whether the files are there and good")
	packages := flags.Bool("packages", false, "make nothing, print the Debian and Ubuntu packages to install first")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	}
	if *packages {
		_, err := fmt.Fprintln(out, strings.Join(vmassets.MissingPackages(*kernel), " "))
		return err
	}
	files, err := build(ctx, *check, vmassets.Config{Out: *dir, Kernel: *kernel, Source: *source, Log: log})
	if err != nil {
		return err
	}
	return list(out, *dir, *check, files)
}

func build(ctx context.Context, check bool, cfg vmassets.Config) ([]vmassets.File, error) {
	if check {
		return vmassets.Check(cfg.Out)
	}
	return vmassets.Build(ctx, cfg)
}

func list(out io.Writer, dir string, check bool, files []vmassets.File) error {
	for _, f := range files {
		state := "made in " + f.Took.Round(10*time.Millisecond).String()
		if f.Took == 0 {
			state = "up to date"
		}
		if check {
			state = "good"
		}
		if _, err := fmt.Fprintf(out, "%s/%-16s %6.1f MiB  %s (%s)\n", dir, f.Name, float64(f.Size)/(1<<20), f.About, state); err != nil {
			return err
		}
	}
	return nil
}
