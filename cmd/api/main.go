// Command api is metald: it creates, runs and removes microVMs on this host. See -help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/daemon"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // a setting is wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends metald at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is main with everything that comes from outside as an argument. It returns the exit code.
func run(ctx context.Context, args, environ []string, out, log io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "usage":
			return runUsage(ctx, args[1:], environ, out, log)
		case "wal":
			return runWAL(args[1:], out, log)
		}
	}
	flags := flag.NewFlagSet("metald", flag.ContinueOnError)
	version := flags.Bool("version", false, "print what this binary was built from")
	check := flags.Bool("check", false, "say for each backend what this host lacks; exit 0 if VMs can run")
	choices := config.Choices{Backends: backend.Names()}
	cfg, err := config.Load(flags, args, environ, choices)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(out, choices)
		return exitOK
	case *version:
		fmt.Fprintln(out, buildVersion())
		return exitOK
	case err != nil:
		fmt.Fprintf(log, "metald: these settings cannot be used:\n%v\n", err)
		return exitUsage
	case *check:
		err = daemon.Check(ctx, cfg, backend.All(), out)
	default:
		err = daemon.Run(ctx, cfg, backend.All(), daemon.NewLog(log, cfg))
	}
	if err != nil {
		fmt.Fprintln(log, "metald:", err)
		return exitFailed
	}
	return exitOK
}

func help(w io.Writer, choices config.Choices) {
	fmt.Fprint(w, `metald creates, runs and removes microVMs on this host.

usage: metald [flags]       run until SIGINT or SIGTERM; VMs run on
       metald -check        say for each backend what this host lacks
       metald usage export  write what VMs used, hour by hour; metald usage -help
       metald usage audit   compare the ledger of usage with its log
       metald wal dump DIR  print a log of usage; metald wal -help
       metald wal verify DIR
       metald -version
       metald -help

Settings. Each has a flag and an environment variable; the flag wins.

`)
	config.WriteHelp(w, choices)
}
