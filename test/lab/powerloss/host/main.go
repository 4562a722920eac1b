// Command host runs in a machine of the lab whose power will be taken.
//
//	host append     write a log, a record each tick, and say which are durable
//	host read       say what is in that log
//	host recover    read the log, start metald and stop it, read the log again, and say what is in both
//	host run        start metald and guests, and say what their VMMs use
//
// What it says are lines of JSON, of package powerloss.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/powerloss"
)

func main() {
	if err := work(context.Background(), os.Args[1:]); err != nil {
		say(powerloss.Word{Failed: err.Error()})
		os.Exit(1)
	}
}

func work(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("host append, read, recover or run")
	}
	switch args[0] {
	case "append":
		return appendForever(ctx)
	case "read":
		log, err := powerloss.ReadPlain(powerloss.PlainLog)
		say(log)
		return err
	case "recover":
		return recoverLog(ctx)
	case "run":
		return run(ctx)
	}
	return fmt.Errorf("host has no command %q", args[0])
}

// say writes a line in one piece.
func say(what any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err) // of types that are all plain
	}
	_, _ = os.Stdout.Write(append(line, '\n')) // nobody to tell it to
}
