package qemu

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// The version that it claims to be.
const versionText = "QEMU emulator version 7.2.22 (stub of metald's tests)"

// Main runs the stand-in and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if slices.Contains(args, "-version") {
		fmt.Fprintln(stdout, versionText)
		return 0
	}
	if len(args) == 2 && args[0] == "-machine" && args[1] == "help" {
		fmt.Fprintln(stdout, "Supported machines are:\nmicrovm              microvm (i386)")
		return 0
	}
	v, err := start(args)
	if err != nil {
		fmt.Fprintf(stderr, "qemu-system-x86_64: %v\n", err)
		return 1
	}
	for range v.knobs.Noise {
		// As C's stdio does, which gives up what a full FIFO does not take.
		_, _ = syscall.Write(2, []byte(strings.Repeat("it goes wrong and on\n", 49)))
	}
	if v.knobs.Die != 0 {
		fmt.Fprintln(stderr, "qemu-system-x86_64: the stand-in was told to die")
		return v.knobs.Die
	}
	return v.run()
}

// start does what QEMU does before its monitors answer.
func start(args []string) (*vmm, error) {
	o, err := parse(args)
	if err != nil {
		return nil, err
	}
	k, err := parseKnobs(o.append)
	if err != nil {
		return nil, err
	}
	wishes, err := guest.ParseOptions(o.append)
	if err != nil {
		return nil, err
	}
	if err := o.lockImages(); err != nil {
		return nil, err
	}
	if err := checkKernel(o.kernel); err != nil {
		return nil, err
	}
	if o.initrd != "" {
		f, err := os.Open(o.initrd)
		if err != nil {
			return nil, fmt.Errorf("qemu: error reading initrd %s: %w", o.initrd, err)
		}
		f.Close()
	}
	return newVMM(o, k, wishes)
}

// run serves until the machine ends.
func (v *vmm) run() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	time.Sleep(v.knobs.Start)
	for _, m := range v.monitors {
		go m.serve()
	}
	go v.guest()
	if !v.opts.paused {
		v.cont()
	}
	select {
	case <-v.ended:
	case s := <-signals:
		fmt.Fprintf(os.Stderr, "qemu-system-x86_64: terminating on signal %d\n", s)
		v.shutdown("host-signal")
	}
	v.close()
	return 0
}
