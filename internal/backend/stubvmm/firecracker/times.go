package firecracker

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// number is an argument's; one that is none is a panic.
func (v *vmm) number(a *rust.Args, name, kind string) int {
	n, err := strconv.ParseUint(a.Get(name), 10, 63)
	if err != nil {
		v.panics(fmt.Sprintf("'%s' parameter expected to be of '%s' type.: ParseIntError { kind: InvalidDigit }", name, kind))
	}
	return int(n)
}

// startTimes stores how long it took from the jailer's start to here.
func (v *vmm) startTimes(a *rust.Args) {
	var now unix.Timespec
	for _, t := range []struct {
		arg, field string
		clock      int32
	}{
		{"start-time-us", "process_startup_time_us", unix.CLOCK_MONOTONIC},
		{"start-time-cpu-us", "process_startup_time_cpu_us", unix.CLOCK_PROCESS_CPUTIME_ID},
	} {
		if !a.Has(t.arg) || unix.ClockGettime(t.clock, &now) != nil {
			continue
		}
		us := now.Nano()/1000 - int64(v.number(a, t.arg, "u64"))
		if t.arg == "start-time-cpu-us" && a.Has("parent-cpu-time-us") {
			us += int64(v.number(a, "parent-cpu-time-us", "u64"))
		}
		v.metrics.set("api_server."+t.field, uint64(max(us, 0)))
	}
}
