package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

const walHelp = `usage: metald wal dump DIR
           print every record of the log of usage in DIR, which is usage.wal in metald's state directory.
       metald wal verify [-trusted FILE] [-key HEX] DIR
           check every record and the hash chain over them, and the chain's heads that billaged signed. Exit code 1 if
           something is lost, or is not as it was written.
           -trusted: hashes that somebody else kept, a line for each: the record's number, and its hash in hexadecimal.
           -key: the public key of billaged; signatures of others count for nothing.

Both read what is there and change nothing. What a metald that runs is just writing may be told as lost.
`

// runWAL runs "metald wal …".
func runWAL(args []string, out, log io.Writer) int {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("metald wal "+verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var trusted, key string
	if verb == "verify" {
		flags.StringVar(&trusted, "trusted", "", "")
		flags.StringVar(&key, "key", "", "")
	}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp) || verb == "help" || verb == "-help" || verb == "--help" || verb == "-h":
		fmt.Fprint(out, walHelp)
		return exitOK
	case err == nil && verb != "dump" && verb != "verify":
		err = fmt.Errorf("%q is none of dump, verify", verb)
	case err == nil && flags.NArg() != 1:
		err = errors.New("name one directory")
	}
	if err != nil {
		fmt.Fprintf(log, "metald wal: %v\n%s", err, walHelp)
		return exitUsage
	}
	if verb == "dump" {
		err = dumpWAL(out, flags.Arg(0))
	} else {
		err = verifyWAL(out, flags.Arg(0), trusted, key)
	}
	return exitCode(log, "wal "+verb, err)
}

// dumpWAL prints a log for people.
func dumpWAL(out io.Writer, dir string) error {
	p := &printer{out: out}
	var d record.Decoder
	return wal.Walk(dir, func(e wal.Entry) error {
		p.entry(e)
		switch {
		case e.Lost != nil:
			d.Lost()
		case p.err == nil:
			if err := d.Decode(e.Type, e.Body, p); err != nil {
				p.printf("  cannot be read: %v\n", err)
			}
		}
		return p.err
	})
}
