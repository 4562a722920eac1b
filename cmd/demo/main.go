// Command demo takes one real VM through its life, through the HTTP API of a metald that it starts for itself, and
// checks at each step what metald reports and what the guest says. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// limit is how long the whole demo may take.
const limit = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

// run plays the demo. Whatever happens, nothing of it is left when it returns.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	binary := flags.String("metald", "build/metald", "`path` of metald")
	assets := flags.String("assets", "build/vm-assets", "`directory` that make vm-assets made")
	if err := flags.Parse(args); err != nil {
		return err
	}
	assetsDir, err := filepath.Abs(*assets)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	stage, err := build(ctx, *binary, assetsDir)
	if err != nil {
		return err
	}
	p := &play{stage: stage, out: out, assets: assetsDir, began: time.Now()}
	defer func() { err = errors.Join(err, p.cleanUp(err)) }()
	return p.perform(ctx)
}
