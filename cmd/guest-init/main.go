// Command guest-init is /sbin/init of the root disk that cmd/vm-assets makes: the tests' guest, and the one a newcomer
// meets first. It says on the console that user space is up, does what the kernel's command line asks (package guest
// has the list), and ends the guest cleanly when the power button is pressed.
//
// It is process 1, so it never returns: leaving main panics the kernel.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest-init mounts over /tmp and ends every process: it runs as process 1 of a guest only")
		os.Exit(1)
	}
	quiet, mountErr := quietKernel(), mountFileSystems()
	opts, optErr := guest.ParseOptions(commandLine())
	for _, err := range []error{mountErr, quiet, optErr} {
		if err != nil {
			say(guest.Prefix + err.Error())
		}
	}
	signals := catchSignals()
	say(guest.Marker)
	end := make(chan ending, 1)
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	asked := host{policy: opts.Power, end: end, signals: hasTerminals()}
	go watchPower(asked)
	go watchSignals(signals, asked)
	work.Go(func() { runBackground(ctx, opts) })
	work.Go(func() { runToTheEnd(ctx, opts, end) })
	e := <-end
	stop()
	e.carryOut(&work)
}

// commandLine is the kernel's; where /proc is missing there is nothing to obey.
func commandLine() string {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return ""
	}
	return string(text)
}

// say writes one line to the console, in one write so that lines of several goroutines don't mix. Where there is no
// console nobody is told, which is what the host asked for.
func say(line string) {
	line = strings.ReplaceAll(strings.TrimSpace(line), "\n", "; ")
	_, _ = fmt.Fprintln(os.Stdout, line)
}
