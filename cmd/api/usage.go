package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/daemon"
)

const usageHelp = `usage: metald usage export -format csv|jsonl [-from HOUR] [-to HOUR] [settings]
           write the ledger's rows, one for each VMM and hour, and their SHA-256 to stderr. Only hours that are complete
           are written; the same hours give the same bytes. HOUR is such as 2026-11-24T13:00:00Z; -to is not included.
       metald usage audit [settings]
           read the log of usage again, where it still has every tick, and compare the ledger with what it comes to.
           Exit code 1 if they differ.

Both work beside a metald that runs, which has to be found by the same settings: state-dir, address, port.
`

// runUsage runs "metald usage …".
func runUsage(ctx context.Context, args, environ []string, out, log io.Writer) int {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("metald usage "+verb, flag.ContinueOnError)
	var format, from, to string
	switch verb {
	case "export":
		flags.StringVar(&format, "format", "csv", "csv or jsonl")
		flags.StringVar(&from, "from", "", "first hour")
		flags.StringVar(&to, "to", "", "first hour that is no more meant")
	case "audit":
	case "-help", "-h", "--help", "help":
		fmt.Fprint(out, usageHelp)
		return exitOK
	default:
		fmt.Fprintf(log, "metald usage: %q is none of export, audit\n%s", verb, usageHelp)
		return exitUsage
	}
	cfg, err := config.Load(flags, args, environ, config.Choices{Backends: backend.Names()})
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, usageHelp)
		return exitOK
	}
	begin, beginErr := moment(from)
	end, endErr := moment(to)
	if err := errors.Join(err, beginErr, endErr); err != nil {
		fmt.Fprintf(log, "metald usage: these settings cannot be used:\n%v\n", err)
		return exitUsage
	}
	if verb == "audit" {
		err = daemon.AuditUsage(ctx, cfg, out)
	} else {
		err = daemon.ExportUsage(ctx, cfg, format, begin, end, out, log)
	}
	return exitCode(log, "usage "+verb, err)
}

func moment(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, text)
}

func exitCode(log io.Writer, verb string, err error) int {
	if err != nil {
		fmt.Fprintf(log, "metald %s: %v\n", verb, err)
		return exitFailed
	}
	return exitOK
}
