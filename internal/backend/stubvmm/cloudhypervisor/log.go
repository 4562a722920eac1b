package cloudhypervisor

import (
	"fmt"
	"os"
	"time"
)

type level int

const (
	levelError level = iota
	levelWarn
	levelInfo
	levelDebug
)

func (l level) String() string { return []string{"ERROR", "WARN", "INFO", "DEBUG"}[l] }

// logger writes the log, to standard error or a file. What is not taken is lost.
type logger struct {
	began time.Time
	most  level
	out   *os.File
}

func (l *logger) log(at level, thread, format string, args ...any) {
	if at > l.most {
		return
	}
	fmt.Fprintf(l.out, "cloud-hypervisor: %10.6fs: <%s> %s:stub -- %s\n", time.Since(l.began).Seconds(), thread, at, fmt.Sprintf(format, args...))
}
