// Command billaged receives what metald measures, and keeps the ledger of it. See -help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // a setting is wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends billaged at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is main with everything that comes from outside as an argument. It returns the exit code.
func run(ctx context.Context, args, environ []string, out, log io.Writer) int {
	flags := flag.NewFlagSet("billaged", flag.ContinueOnError)
	format := flags.String("export", "", "write the ledger's rows as csv or jsonl, and their SHA-256 to stderr")
	audit := flags.Bool("audit", false, "make the ledger anew of the raw batches beside it, and compare")
	from := flags.String("from", "", "with -export: first hour, such as 2026-11-24T00:00:00Z")
	to := flags.String("to", "", "with -export: first hour that is no more meant")
	cfg, err := config.LoadBillaged(flags, args, environ)
	if errors.Is(err, flag.ErrHelp) {
		help(out)
		return exitOK
	}
	begin, beginErr := hour(*from, 0)
	end, endErr := hour(*to, math.MaxInt64)
	if err := errors.Join(err, beginErr, endErr); err != nil {
		fmt.Fprintf(log, "billaged: these settings cannot be used:\n%v\n", err)
		return exitUsage
	}
	switch {
	case *audit:
		err = service.Audit(ctx, cfg.StateDir, "", out)
	case *format != "":
		err = service.Export(ctx, cfg.StateDir, *format, begin, end, out, log)
	default:
		err = service.Run(ctx, cfg, service.NewLog(log, cfg))
	}
	if err != nil {
		fmt.Fprintln(log, "billaged:", err)
		return exitFailed
	}
	return exitOK
}

func hour(text string, otherwise int64) (int64, error) {
	if text == "" {
		return otherwise, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err == nil && t.Unix()%3600 != 0 {
		err = fmt.Errorf("%s is not a whole hour", text)
	}
	return t.Unix(), err
}

func help(w io.Writer) {
	fmt.Fprint(w, `billaged receives what metald measures of its VMs, and keeps the ledger of it.

usage: billaged [flags]                                  run until SIGINT or SIGTERM
       billaged -export csv|jsonl [-from HOUR] [-to HOUR]  write the ledger
       billaged -audit                                     compare the ledger with its raw batches
       billaged -help

Settings. Each has a flag and an environment variable; the flag wins.

`)
	config.WriteBillagedHelp(w)
}
