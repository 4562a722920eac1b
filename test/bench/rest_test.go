package bench

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rest waits until the host has done what earlier turns left to it: records of deletions that are saved after the answer,
// pages that are written, inodes that are freed. Both sides begin from there. On a host that has other work it gives up
// after some seconds.
func rest() {
	const window, longest = 200 * time.Millisecond, 5 * time.Second
	unix.Sync()
	for deadline := time.Now().Add(longest); time.Now().Before(deadline); {
		before := busy()
		time.Sleep(window)
		if busy()-before < window/20 {
			return
		}
	}
}

// busy is the time that the host's CPUs have worked, in ticks of 10 ms: the first line of /proc/stat but for idle and
// iowait.
func busy() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var sum time.Duration
	for i, field := range strings.Fields(line) {
		const idle, iowait = 4, 5
		if n, err := strconv.Atoi(field); err == nil && i != idle && i != iowait {
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}
